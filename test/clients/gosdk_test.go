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
	"AlreadyExistsException":           is[*types.AlreadyExistsException],
	"DisabledException":                is[*types.DisabledException],
	"DryRunOperationException":         is[*types.DryRunOperationException],
	"InvalidArnException":              is[*types.InvalidArnException],
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
	"CancelKeyDeletion":    goOperation((*kms.Client).CancelKeyDeletion),
	"CreateAlias":          goOperation((*kms.Client).CreateAlias),
	"CreateKey":            goOperation((*kms.Client).CreateKey),
	"DeleteAlias":          goOperation((*kms.Client).DeleteAlias),
	"DescribeKey":          goOperation((*kms.Client).DescribeKey),
	"DisableKey":           goOperation((*kms.Client).DisableKey),
	"DisableKeyRotation":   goOperation((*kms.Client).DisableKeyRotation),
	"EnableKey":            goOperation((*kms.Client).EnableKey),
	"EnableKeyRotation":    goOperation((*kms.Client).EnableKeyRotation),
	"GenerateMac":          goOperation((*kms.Client).GenerateMac),
	"GenerateRandom":       goOperation((*kms.Client).GenerateRandom),
	"GetKeyPolicy":         goOperation((*kms.Client).GetKeyPolicy),
	"GetKeyRotationStatus": goOperation((*kms.Client).GetKeyRotationStatus),
	"GetPublicKey":         goOperation((*kms.Client).GetPublicKey),
	"ListKeyPolicies":      goOperation((*kms.Client).ListKeyPolicies),
	"ListKeyRotations":     goOperation((*kms.Client).ListKeyRotations),
	"PutKeyPolicy":         goOperation((*kms.Client).PutKeyPolicy),
	"ReplicateKey":         goOperation((*kms.Client).ReplicateKey),
	"RotateKeyOnDemand":    goOperation((*kms.Client).RotateKeyOnDemand),
	"ScheduleKeyDeletion":  goOperation((*kms.Client).ScheduleKeyDeletion),
	"TagResource":          goOperation((*kms.Client).TagResource),
	"UntagResource":        goOperation((*kms.Client).UntagResource),
	"UpdateAlias":          goOperation((*kms.Client).UpdateAlias),
	"UpdateKeyDescription": goOperation((*kms.Client).UpdateKeyDescription),
	"VerifyMac":            goOperation((*kms.Client).VerifyMac),
	"Sign":                 goOperation((*kms.Client).Sign),
	"Verify":               goOperation((*kms.Client).Verify),

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

// paginator is one of the SDK's.
type paginator[Out any] interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*kms.Options)) (*Out, error)
}

// goList makes one operation of a paginator. The size of the pages is the Limit of its input.
func goList[In, Out any](begin func(*kms.Client, *In) paginator[Out], add func(all, page *Out)) func(*kms.Client, context.Context, *In, ...func(*kms.Options)) (*Out, error) {
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
