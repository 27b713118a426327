package awsjson_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

// rounds is how many random values each operation is tried with.
const rounds = 25

// wire stands where the SDK's client has its connection: it keeps the request's body and gives a prepared answer.
type wire struct {
	request  []byte
	status   int
	response []byte
}

func (w *wire) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w.request = body
	return &http.Response{
		StatusCode: w.status,
		Header:     http.Header{"Content-Type": {"application/x-amz-json-1.1"}},
		Body:       io.NopCloser(bytes.NewReader(w.response)),
		Request:    r,
	}, nil
}

func (w *wire) client() *kms.Client {
	credentials := func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "none"}, nil
	}
	return kms.New(kms.Options{
		Region:           "us-east-1",
		BaseEndpoint:     aws.String("http://kms.invalid"),
		HTTPClient:       w,
		Credentials:      aws.CredentialsProviderFunc(credentials),
		RetryMaxAttempts: 1,
	})
}

// eachOperation runs test for every operation of the SDK's client.
func eachOperation(t *testing.T, test func(t *testing.T, operation reflect.Method)) {
	client := reflect.TypeFor[*kms.Client]()
	found := 0
	for i := range client.NumMethod() {
		operation := client.Method(i)
		if operation.Type.NumIn() != 4 || operation.Type.NumOut() != 2 {
			continue
		}
		found++
		t.Run(operation.Name, func(t *testing.T) { test(t, operation) })
	}
	assert.GreaterOrEqual(t, found, 50, "operations found")
}

func inputOf(operation reflect.Method) reflect.Value { return reflect.New(operation.Type.In(2).Elem()) }
func outputOf(operation reflect.Method) reflect.Value {
	return reflect.New(operation.Type.Out(0).Elem())
}

// call calls an operation and returns its output without ResultMetadata, which is the SDK's own.
func call(t *testing.T, w *wire, operation reflect.Method, input reflect.Value) any {
	t.Helper()
	in := []reflect.Value{reflect.ValueOf(w.client()), reflect.ValueOf(t.Context()), input}
	result := operation.Func.Call(in)
	require.Nil(t, result[1].Interface(), "the error of the SDK's client")
	result[0].Elem().FieldByName("ResultMetadata").SetZero()
	return result[0].Interface()
}

func never() bool { return false }

// sometimes leaves out a third of the members.
func (r random) sometimes() bool { return r.IntN(3) == 0 }

func TestDecodeReadsWhatTheSDKSends(t *testing.T) {
	eachOperation(t, func(t *testing.T, operation reflect.Method) {
		for seed := range uint64(rounds) {
			// Every member is set, or the client would refuse an input that lacks a required one.
			input := inputOf(operation)
			newRandom(seed).fill(input.Elem(), never)
			w := &wire{status: http.StatusOK, response: []byte(`{}`)}
			call(t, w, operation, input)

			got := inputOf(operation).Interface()
			require.NoError(t, awsjson.Decode(w.request, got), "seed %d", seed)
			require.Equal(t, input.Interface(), got, "seed %d", seed)
		}
	})
}

func TestTheSDKReadsWhatEncodeWrites(t *testing.T) {
	eachOperation(t, func(t *testing.T, operation reflect.Method) {
		for seed := range uint64(rounds) {
			r := newRandom(seed)
			// The SDK loses a millisecond of some times, such as 1077026361.86. It keeps fractions that are exact in binary.
			r.tick = 125
			input, output := inputOf(operation), outputOf(operation)
			r.fill(input.Elem(), never)
			r.fill(output.Elem(), r.sometimes)
			w := &wire{status: http.StatusOK, response: []byte(encode(t, output.Interface()))}

			require.Equal(t, output.Interface(), call(t, w, operation, input), "seed %d", seed)
		}
	})
}

func TestDecodeReadsWhatEncodeWrites(t *testing.T) {
	eachOperation(t, func(t *testing.T, operation reflect.Method) {
		for seed := range uint64(rounds) {
			r := newRandom(seed)
			for _, v := range []reflect.Value{inputOf(operation), outputOf(operation)} {
				r.fill(v.Elem(), r.sometimes)
				got := reflect.New(v.Type().Elem()).Interface()
				require.NoError(t, awsjson.Decode([]byte(encode(t, v.Interface())), got), "seed %d", seed)
				require.Equal(t, v.Interface(), got, "seed %d", seed)
			}
		}
	})
}

func TestEncodeErrorReachesTheSDK(t *testing.T) {
	text := "1 validation error: '\"<é>\"\n'"
	for want, message := range map[string]*string{"": nil, text: &text} {
		w := &wire{status: http.StatusBadRequest, response: awsjson.EncodeError("KMSInvalidMacException", message)}
		_, err := w.client().ListKeys(t.Context(), &kms.ListKeysInput{})

		var answer smithy.APIError
		require.ErrorAs(t, err, &answer)
		assert.Equal(t, "KMSInvalidMacException", answer.ErrorCode())
		assert.Equal(t, want, answer.ErrorMessage())
	}
}
