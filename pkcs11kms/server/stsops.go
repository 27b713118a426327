package server

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

const stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// securityTokens is AWS STS.
var securityTokens = &service{signingName: "sts", codec: query("sts", stsNamespace), global: true, operations: map[string]handler{
	"AssumeRole":        queryOp(stsNamespace, assumeRole),
	webIdentity:         queryOp(stsNamespace, assumeRoleWithWebIdentity),
	"GetCallerIdentity": queryOp(stsNamespace, getCallerIdentity),
}}

// callerIdentity has its members in the order of the real service's answer.
type callerIdentity struct{ Arn, UserId, Account string }

func getCallerIdentity(ctx context.Context, c *pkcs11kms.Client, _ *struct{}) (*callerIdentity, error) {
	who, err := c.IAM().GetCallerIdentity(ctx)
	return &callerIdentity{Arn: who.ARN, UserId: who.UserID, Account: who.Account}, err
}

// The input and the output of AssumeRole, with the members of its model.
type (
	policyShape struct {
		Arn *string `query:"arn"` // so the model has it
	}
	providedShape struct{ ProviderArn, ContextAssertion *string }

	assumeRoleInput struct {
		RoleArn           *string `query:"required"`
		RoleSessionName   *string `query:"required"`
		PolicyArns        []policyShape
		Policy            *string
		DurationSeconds   *int32
		Tags              []tagShape
		TransitiveTagKeys []string
		ExternalId        *string
		SerialNumber      *string
		TokenCode         *string
		SourceIdentity    *string
		ProvidedContexts  []providedShape
	}
	assumedRoleUser  struct{ AssumedRoleId, Arn string }
	credentialsShape struct {
		AccessKeyId, SecretAccessKey, SessionToken string
		Expiration                                 time.Time
	}
	assumeRoleOutput struct {
		AssumedRoleUser  *assumedRoleUser
		Credentials      *credentialsShape
		PackedPolicySize *int32
		SourceIdentity   *string
	}
)

func assumeRole(ctx context.Context, c *pkcs11kms.Client, in *assumeRoleInput) (*assumeRoleOutput, error) {
	switch {
	case in.SerialNumber != nil, in.TokenCode != nil:
		return nil, undo(in, validation("SerialNumber and TokenCode are not supported: this service has no MFA devices."))
	case len(in.ProvidedContexts) > 0:
		return nil, undo(in, validation("ProvidedContexts is not supported."))
	}
	asked := iam.AssumeRoleInput{RoleARN: *in.RoleArn, SessionName: *in.RoleSessionName, Policy: in.Policy,
		DurationSeconds: in.DurationSeconds, Tags: tagsOf(in.Tags),
		TransitiveTagKeys: in.TransitiveTagKeys, ExternalID: in.ExternalId, SourceIdentity: in.SourceIdentity}
	for _, one := range in.PolicyArns {
		asked.PolicyARNs = append(asked.PolicyARNs, aws.ToString(one.Arn))
	}
	made, err := c.IAM().AssumeRole(ctx, asked)
	return &assumeRoleOutput{
		AssumedRoleUser:  &assumedRoleUser{made.ID, made.ARN},
		Credentials:      &credentialsShape{made.AccessKeyID, made.SecretAccessKey, made.SessionToken, made.Expiration},
		PackedPolicySize: made.PackedPolicySize, SourceIdentity: made.SourceIdentity,
	}, err
}
