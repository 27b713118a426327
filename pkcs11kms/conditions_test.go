package pkcs11kms

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// conditionRig is a key with everything that condition keys tell of it, and a user with tags.
type conditionRig struct {
	c       *Client
	user    *Client
	name    iam.PrincipalName
	key     *types.KeyMetadata
	signing *types.KeyMetadata
}

func newConditionRig(t *testing.T) *conditionRig {
	r := &conditionRig{c: newClient(t), name: userName("asker")}
	r.user = as(t, r.c, r.name)
	require.NoError(t, asRoot(r.c.bridge).TagPrincipal(t.Context(), r.name, []keystore.Tag{{Key: "Team", Value: "blue"}}))
	r.key = mustCreate(t, r.c, types.KeySpecHmac256)
	made, err := r.c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
	require.NoError(t, err)
	r.signing = made.KeyMetadata
	createAlias(t, r.c, "alias/app", r.key.KeyId)
	tag(t, r.c, r.key.KeyId, "Stage", "prod")
	return r
}

type conditionCase struct {
	operator, key, fits, misses string
	call                        func(ctx context.Context, user *Client) error
}

func (r *conditionRig) describe(ctx context.Context, user *Client) error {
	_, err := user.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: r.key.KeyId})
	return err
}

func (r *conditionRig) byAlias(ctx context.Context, user *Client) error {
	_, err := generate(ctx, user, ptr("alias/app"), []byte("m"))
	return err
}

func (r *conditionRig) sign(ctx context.Context, user *Client) error {
	_, err := user.Sign(ctx,
		&kms.SignInput{KeyId: r.signing.KeyId, Message: []byte("m"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	return err
}

func (r *conditionRig) create(ctx context.Context, user *Client) error {
	_, err := user.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac384, KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
		Tags: []types.Tag{{TagKey: ptr("Stage"), TagValue: ptr("test")}}})
	return err
}

func (r *conditionRig) tagIt(ctx context.Context, user *Client) error {
	_, err := user.TagResource(ctx, &kms.TagResourceInput{KeyId: r.key.KeyId, Tags: []types.Tag{{TagKey: ptr("Owner"), TagValue: ptr("me")}}})
	return err
}

func (r *conditionRig) untag(ctx context.Context, user *Client) error {
	_, err := user.UntagResource(ctx, &kms.UntagResourceInput{KeyId: r.key.KeyId, TagKeys: []string{"Owner"}})
	return err
}

func (r *conditionRig) put(ctx context.Context, user *Client) error {
	policy := keyPolicy()
	_, err := user.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: r.key.KeyId, Policy: &policy, BypassPolicyLockoutSafetyCheck: true})
	return err
}

func (r *conditionRig) schedule(ctx context.Context, user *Client) error {
	other, err := r.c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err != nil {
		return err
	}
	_, err = user.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: other.KeyMetadata.KeyId, PendingWindowInDays: aws.Int32(9)})
	return err
}

// from is describe over a connection.
func (r *conditionRig) from(ctx context.Context, user *Client) error {
	conn := Connection{SourceIP: netip.MustParseAddr("192.0.2.7"), TLS: true, UserAgent: "tester/1"}
	return r.describe(ctx, user.As(user.caller.From(conn)))
}

func (r *conditionRig) cases() []conditionCase {
	return []conditionCase{
		{"StringEquals", "kms:MacAlgorithm", "HMAC_SHA_256", "HMAC_SHA_512", r.byAlias},
		{"StringEquals", "kms:SigningAlgorithm", "ECDSA_SHA_256", "ECDSA_SHA_384", r.sign},
		{"StringEquals", "kms:MessageType", "RAW", "DIGEST", r.sign},
		{"StringEquals", "kms:KeySpec", "ECC_NIST_P256", "HMAC_256", r.sign},
		{"StringEquals", "kms:RequestAlias", "alias/app", "alias/other", r.byAlias},
		{"ForAnyValue:StringEquals", "kms:ResourceAliases", "alias/app", "alias/other", r.describe},
		{"StringEquals", "kms:CallerAccount", testAccount, "444455556666", r.describe},
		{"StringEquals", "kms:KeySpec", "HMAC_256", "HMAC_384", r.describe},
		{"StringEquals", "kms:CustomerMasterKeySpec", "HMAC_256", "HMAC_384", r.describe},
		{"StringEquals", "kms:KeyUsage", "GENERATE_VERIFY_MAC", "SIGN_VERIFY", r.describe},
		{"StringEquals", "kms:CustomerMasterKeyUsage", "GENERATE_VERIFY_MAC", "SIGN_VERIFY", r.describe},
		{"StringEquals", "kms:KeyOrigin", "AWS_KMS", "EXTERNAL", r.describe},
		{"Bool", "kms:MultiRegion", "false", "true", r.describe},
		{"StringEquals", "kms:KeySpec", "HMAC_384", "HMAC_256", r.create},
		{"StringEquals", "kms:KeyUsage", "GENERATE_VERIFY_MAC", "SIGN_VERIFY", r.create},
		{"StringEquals", "kms:KeyOrigin", "AWS_KMS", "EXTERNAL", r.create},
		{"Bool", "kms:BypassPolicyLockoutSafetyCheck", "false", "true", r.create},
		{"Bool", "kms:BypassPolicyLockoutSafetyCheck", "true", "false", r.put},
		{"NumericLessThan", "kms:ScheduleKeyDeletionPendingWindowInDays", "10", "9", r.schedule},
		{"StringEquals", "aws:RequestTag/stage", "test", "prod", r.create},
		{"StringEquals", "aws:RequestTag/Owner", "me", "you", r.tagIt},
		{"ForAllValues:StringEquals", "aws:TagKeys", "Owner", "Stage", r.tagIt},
		{"ForAllValues:StringEquals", "aws:TagKeys", "Owner", "Stage", r.untag},
		{"StringEquals", "aws:ResourceTag/Stage", "prod", "test", r.describe},
		{"StringEquals", "aws:PrincipalTag/team", "blue", "red", r.describe},
		{"ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:user/asker", "arn:aws:iam::*:role/*", r.describe},
		{"StringEquals", "aws:PrincipalAccount", testAccount, "444455556666", r.describe},
		{"StringEquals", "aws:PrincipalType", "User", "AssumedRole", r.describe},
		{"StringEquals", "aws:userid", r.user.caller.ID(), "AIDAAAAAAAAAAAAAAAAAA", r.describe},
		{"StringEquals", "aws:username", "asker", "another", r.describe},
		{"StringEquals", "aws:RequestedRegion", testRegion, "eu-west-1", r.describe},
		{"StringEquals", "aws:ResourceAccount", testAccount, "444455556666", r.describe},
		{"DateGreaterThan", "aws:CurrentTime", "2020-01-01T00:00:00Z", "2120-01-01T00:00:00Z", r.describe},
		{"NumericLessThan", "aws:EpochTime", "99999999999", "1", r.describe},
		{"IpAddress", "aws:SourceIp", "192.0.2.0/24", "198.51.100.0/24", r.from},
		{"Bool", "aws:SecureTransport", "true", "false", r.from},
		{"StringLike", "aws:UserAgent", "tester/*", "aws-cli/*", r.from},
	}
}

// Each condition key has the value that it should: a policy with the right one allows, a policy with another does not.
func TestConditionKeys(t *testing.T) {
	r := newConditionRig(t)
	for _, test := range r.cases() {
		for value, fits := range map[string]bool{test.fits: true, test.misses: false} {
			document := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*",`+
				`"Condition":{"%s":{"%s":"%s"}}}]}`,
				test.operator, test.key, value)
			require.NoError(t, asRoot(r.c.bridge).PutPrincipalPolicy(t.Context(), r.name, "p", document), document)
			err := test.call(t.Context(), r.user)
			if fits {
				require.NoError(t, err, document)
			} else {
				require.ErrorContains(t, err, "AccessDeniedException", document)
			}
		}
	}
}

// In process there is no connection: its condition keys are absent, as AWS has it for what a request does not carry.
func TestConnectionKeysAreAbsentInProcess(t *testing.T) {
	r := newConditionRig(t)
	for _, key := range []string{"aws:SourceIp", "aws:SecureTransport", "aws:UserAgent", "kms:ViaService"} {
		document := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*",` +
			`"Condition":{"Null":{"` + key + `":"true"}}}]}`
		require.NoError(t, asRoot(r.c.bridge).PutPrincipalPolicy(t.Context(), r.name, "p", document))
		require.NoError(t, r.describe(t.Context(), r.user), key)
	}
}
