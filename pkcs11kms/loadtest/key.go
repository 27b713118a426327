package loadtest

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// Description tells whoever finds a throw-away key what it is.
const Description = "throw-away key of pkcs11kms bench: it may be deleted"

// PendingWindow is the least number of days after which the API lets a key be destroyed.
const PendingWindow = 7

// KeyMaker is what throw-away keys need of a client of the KMS API.
type KeyMaker interface {
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
	ScheduleKeyDeletion(context.Context, *kms.ScheduleKeyDeletionInput, ...func(*kms.Options)) (*kms.ScheduleKeyDeletionOutput, error)
}

// UsageOf is what keys of the spec are for.
func UsageOf(spec types.KeySpec) types.KeyUsageType {
	if keyring.MACSpecOf(spec) != nil {
		return types.KeyUsageTypeGenerateVerifyMac
	}
	return types.KeyUsageTypeSignVerify
}

// MakeKey makes a throw-away key and returns its id. Give it a context that outlasts an interrupt: nobody would know the id of a key
// whose making was given up.
func MakeKey(ctx context.Context, client KeyMaker, spec types.KeySpec) (keyID string, err error) {
	out, err := client.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: spec, KeyUsage: UsageOf(spec), Description: aws.String(Description)})
	if err != nil {
		return "", err
	}
	if out.KeyMetadata == nil || aws.ToString(out.KeyMetadata.KeyId) == "" {
		return "", errors.New("the answer to CreateKey names no key")
	}
	return *out.KeyMetadata.KeyId, nil
}

// DeleteKey makes a throw-away key unusable at once and has it destroyed as soon as the API allows, which is the date that it returns.
func DeleteKey(ctx context.Context, client KeyMaker, keyID string) (time.Time, error) {
	out, err := client.ScheduleKeyDeletion(ctx,
		&kms.ScheduleKeyDeletionInput{KeyId: aws.String(keyID), PendingWindowInDays: aws.Int32(PendingWindow)})
	if err != nil {
		return time.Time{}, err
	}
	return aws.ToTime(out.DeletionDate), nil
}
