package clients

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// modelled are the errors that the API model has, each with the test for its type in Go. Every SDK has a class of the
// same name.
var modelled = map[string]func(error) bool{
	"AlreadyExistsException":           is[*types.AlreadyExistsException],
	"DisabledException":                is[*types.DisabledException],
	"DryRunOperationException":         is[*types.DryRunOperationException],
	"InvalidArnException":              is[*types.InvalidArnException],
	"InvalidCiphertextException":       is[*types.InvalidCiphertextException],
	"InvalidGrantTokenException":       is[*types.InvalidGrantTokenException],
	"InvalidKeyUsageException":         is[*types.InvalidKeyUsageException],
	"InvalidMarkerException":           is[*types.InvalidMarkerException],
	"KMSInvalidMacException":           is[*types.KMSInvalidMacException],
	"KMSInvalidSignatureException":     is[*types.KMSInvalidSignatureException],
	"KMSInvalidStateException":         is[*types.KMSInvalidStateException],
	"MalformedPolicyDocumentException": is[*types.MalformedPolicyDocumentException],
	"NotFoundException":                is[*types.NotFoundException],
	"TagException":                     is[*types.TagException],
	"UnsupportedOperationException":    is[*types.UnsupportedOperationException],
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func newGoSDK(t *testing.T) client {
	connections := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(connections.CloseIdleConnections)
	model := func(*testing.T, target) []string { return goModel() }
	return client{generic: "GenericAPIError", followsClock: true, model: model, call: func(c command) (answer, error) {
		sdk := kms.NewFromConfig(aws.Config{
			Region:       c.Target.Region,
			BaseEndpoint: &c.Target.Endpoint,
			Credentials:  credentials.NewStaticCredentialsProvider(c.Target.AccessKey, c.Target.Secret, ""),
			HTTPClient:   connections,
		})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if list := goLists[c.Operation]; list != nil {
			return list(ctx, sdk, c.Input)
		}
		return goCall(ctx, sdk, c.Operation, c.Input)
	}}
}

// goModel returns the operations of the API model, which are methods of the SDK's client.
func goModel() (operations []string) {
	for method := range reflect.TypeFor[*kms.Client]().Methods() {
		if method.Name != "Options" {
			operations = append(operations, method.Name)
		}
	}
	return operations
}

// goCall calls the method of an operation.
func goCall(ctx context.Context, sdk *kms.Client, operation string, input members) (answer, error) {
	method := reflect.ValueOf(sdk).MethodByName(operation)
	if !method.IsValid() {
		return answer{Unknown: true}, nil
	}
	in := reflect.New(method.Type().In(1).Elem())
	if err := translate(input, in.Interface()); err != nil {
		return answer{}, err
	}
	results := method.Call([]reflect.Value{reflect.ValueOf(ctx), in})
	err, _ := results[1].Interface().(error)
	return goAnswer(results[0].Interface(), err)
}

// goLists are the operations that programs call by a paginator of the SDK.
var goLists = map[string]func(context.Context, *kms.Client, members) (answer, error){
	"ListAliases": goOperation(goList(
		func(sdk *kms.Client, in *kms.ListAliasesInput) paginator[kms.ListAliasesOutput] {
			return kms.NewListAliasesPaginator(sdk, in)
		},
		func(all, page *kms.ListAliasesOutput) { all.Aliases = append(all.Aliases, page.Aliases...) })),
	"ListKeys": goOperation(goList(
		func(sdk *kms.Client, in *kms.ListKeysInput) paginator[kms.ListKeysOutput] {
			return kms.NewListKeysPaginator(sdk, in)
		},
		func(all, page *kms.ListKeysOutput) { all.Keys = append(all.Keys, page.Keys...) })),
	"ListResourceTags": goOperation(goList(
		func(sdk *kms.Client, in *kms.ListResourceTagsInput) paginator[kms.ListResourceTagsOutput] {
			return kms.NewListResourceTagsPaginator(sdk, in)
		},
		func(all, page *kms.ListResourceTagsOutput) { all.Tags = append(all.Tags, page.Tags...) })),
}

func goOperation[In, Out any](
	call func(*kms.Client, context.Context, *In, ...func(*kms.Options)) (*Out, error),
) func(context.Context, *kms.Client, members) (answer, error) {
	return func(ctx context.Context, sdk *kms.Client, input members) (answer, error) {
		var in In
		if err := translate(input, &in); err != nil {
			return answer{}, err
		}
		out, err := call(sdk, ctx, &in)
		return goAnswer(out, err)
	}
}

func goAnswer(out any, err error) (answer, error) {
	if err != nil {
		return goRefusal(err)
	}
	var got answer
	err = translate(out, &got.Output)
	delete(got.Output, "ResultMetadata") // the SDK's own
	return got, err
}

func goRefusal(err error) (answer, error) {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return answer{}, err
	}
	r := &refusal{Code: api.ErrorCode(), Message: api.ErrorMessage()}
	if isClass := modelled[r.Code]; isClass != nil && isClass(err) {
		r.Class = r.Code
	} else if is[*smithy.GenericAPIError](err) {
		r.Class = "GenericAPIError"
	}
	if response, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		r.Status = response.HTTPStatusCode()
	}
	return answer{Refusal: r}, nil
}

// paginator is one of the SDK's.
type paginator[Out any] interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*kms.Options)) (*Out, error)
}

// goList makes one operation of a paginator. The size of the pages is the Limit of its input.
func goList[In, Out any](begin func(*kms.Client, *In) paginator[Out],
	add func(all, page *Out)) func(*kms.Client, context.Context, *In, ...func(*kms.Options)) (*Out, error) {
	return func(sdk *kms.Client, ctx context.Context, in *In, _ ...func(*kms.Options)) (*Out, error) {
		all := new(Out)
		for pages := begin(sdk, in); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, err
			}
			add(all, page)
		}
		return all, nil
	}
}

// translate carries members from one form to another by their JSON names, which the SDK's structs have as field names.
func translate(from, to any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}
