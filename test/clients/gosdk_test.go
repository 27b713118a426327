package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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
	"DisabledException":             is[*types.DisabledException],
	"DryRunOperationException":      is[*types.DryRunOperationException],
	"InvalidArnException":           is[*types.InvalidArnException],
	"InvalidKeyUsageException":      is[*types.InvalidKeyUsageException],
	"InvalidMarkerException":        is[*types.InvalidMarkerException],
	"KMSInvalidMacException":        is[*types.KMSInvalidMacException],
	"NotFoundException":             is[*types.NotFoundException],
	"UnsupportedOperationException": is[*types.UnsupportedOperationException],
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

func newGoSDK(t *testing.T) client {
	connections := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(connections.CloseIdleConnections)
	return client{generic: "GenericAPIError", followsClock: true, call: func(c command) (answer, error) {
		sdk := kms.NewFromConfig(aws.Config{
			Region:       c.Target.Region,
			BaseEndpoint: &c.Target.Endpoint,
			Credentials:  credentials.NewStaticCredentialsProvider(c.Target.AccessKey, c.Target.Secret, ""),
			HTTPClient:   connections,
		})
		run, ok := goOperations[c.Operation]
		if !ok {
			return answer{}, fmt.Errorf("no such operation: %q", c.Operation)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return run(ctx, sdk, c.Input)
	}}
}

var goOperations = map[string]func(context.Context, *kms.Client, members) (answer, error){
	"CreateKey":   goOperation((*kms.Client).CreateKey),
	"DescribeKey": goOperation((*kms.Client).DescribeKey),
	"DisableKey":  goOperation((*kms.Client).DisableKey),
	"EnableKey":   goOperation((*kms.Client).EnableKey),
	"GenerateMac": goOperation((*kms.Client).GenerateMac),
	"ListKeys":    goOperation(listAll),
	"VerifyMac":   goOperation((*kms.Client).VerifyMac),
	"CreateAlias": goOperation((*kms.Client).CreateAlias),
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
		if err != nil {
			return goRefusal(err)
		}
		var got answer
		err = translate(out, &got.Output)
		delete(got.Output, "ResultMetadata") // the SDK's own
		return got, err
	}
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

// listAll goes through the SDK's paginator.
func listAll(sdk *kms.Client, ctx context.Context, in *kms.ListKeysInput, _ ...func(*kms.Options)) (*kms.ListKeysOutput, error) {
	all := &kms.ListKeysOutput{}
	for pages := kms.NewListKeysPaginator(sdk, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all.Keys = append(all.Keys, page.Keys...)
	}
	return all, nil
}

// translate carries members from one form to another by their JSON names, which the SDK's structs have as field names.
func translate(from, to any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}
