package pkcs11kms

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// CreateKey generates a key in the token and returns its metadata. KeySpec is HMAC_224, HMAC_256, HMAC_384 or HMAC_512 with
// the KeyUsage GENERATE_VERIFY_MAC, or RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521,
// ECC_SECG_P256K1 or ECC_NIST_EDWARDS25519 with SIGN_VERIFY; both must be given. With the Origin EXTERNAL, of HMAC keys, nothing
// is generated: the key is PendingImport until ImportKeyMaterial. Other specs, usages, origins, multi-Region
// keys are refused with UnsupportedOperationException, and so are what the token cannot do and, in FIPS 140-3 mode,
// ECC_SECG_P256K1. A Policy is checked as PutKeyPolicy checks it, and Tags need the permission for TagResource. It is not
// idempotent: a call repeated makes a second key.
func (c *Client) CreateKey(ctx context.Context, in *kms.CreateKeyInput, optFns ...func(*kms.Options)) (*kms.CreateKeyOutput, error) {
	return perform(ctx, c, ops.CreateKey, in, optFns, func(_ *Client, in *kms.CreateKeyInput) (request, error) {
		return request{given: givenCreate(in), shown: withCreateDefaults(*in)}, checkCreateKey(in)
	}, func(
		ctx context.Context, c *call, in *kms.CreateKeyInput, _ *key,
	) (*kms.CreateKeyOutput, error) {
		spec, err := c.supported(ctx, in)
		if err != nil {
			return nil, err
		}
		record := c.region.NewRecord(c.caller.Account(), uuid.NewString())
		record.Description = aws.ToString(in.Description)
		if err := c.grantedCreate(ctx, in, &c.req, &record); err != nil {
			return nil, err
		}
		k, err := c.make(ctx, in, spec, record)
		if gap, ok := errors.AsType[*token.GapError](err); ok {
			return nil, gapError(spec, gap)
		}
		if err != nil {
			return nil, err
		}
		c.created = func(ctx context.Context) error { return c.bridge.core.Keys.TakeBack(ctx, k) }
		return &kms.CreateKeyOutput{KeyMetadata: k.Metadata()}, nil
	})
}

// make makes the key, or for material that is to be imported its record alone.
func (c *call) make(ctx context.Context, in *kms.CreateKeyInput, spec *keyring.Spec, record keystore.Key) (*keyring.Key, error) {
	if in.Origin == types.OriginTypeExternal {
		return c.bridge.core.Keys.MakeEmpty(ctx, spec, record, c.precondition)
	}
	return c.bridge.core.Keys.Make(ctx, c.region, spec, record, c.precondition)
}

// grantedCreate puts tags and policy into a new record, if the caller may give them.
func (c *Client) grantedCreate(ctx context.Context, in *kms.CreateKeyInput, req *request, record *keystore.Key) (err error) {
	arn := c.arn(keyID{region: record.Region, account: record.Account, id: record.ID})
	if len(in.Tags) > 0 {
		if err := c.decide(ctx, ops.TagResource, &question{resource: arn, shown: "*", about: conditions{req: req}}); err != nil {
			return err
		}
		if record.Tags, err = withTags(nil, in.Tags, c.bridge.cfg.Quotas.TagsPerKey); err != nil {
			return err
		}
	}
	if in.Policy != nil {
		k := &key{Key: &keyring.Key{Record: *record, ARN: arn}} // what it will be
		k.Record.Spec, k.Record.Usage, k.Record.Origin = string(requestedSpec(in)), string(in.KeyUsage), string(requestedOrigin(in))
		record.Policy, err = c.givenPolicy(ctx, *in.Policy, k, in.BypassPolicyLockoutSafetyCheck)
	}
	return err
}

// givenCreate are the condition keys of CreateKey: they have the values of the key that it asks for.
func givenCreate(in *kms.CreateKeyInput) map[string][]string {
	given := givenTags(in.Tags)
	maps.Copy(given, givenBypass(in.BypassPolicyLockoutSafetyCheck))
	spec, usage, origin := string(requestedSpec(in)), string(in.KeyUsage), string(in.Origin)
	setDefault(&usage, string(types.KeyUsageTypeEncryptDecrypt))
	setDefault(&origin, string(types.OriginTypeAwsKms))
	given["kms:keyspec"], given["kms:customermasterkeyspec"] = []string{spec}, []string{spec}
	given["kms:keyusage"], given["kms:customermasterkeyusage"] = []string{usage}, []string{usage}
	given["kms:keyorigin"] = []string{origin}
	given["kms:multiregion"] = []string{strconv.FormatBool(aws.ToBool(in.MultiRegion))}
	return given
}

// withCreateDefaults is the input as CloudTrail shows it: what was left to the service has the service's values.
func withCreateDefaults(in kms.CreateKeyInput) *kms.CreateKeyInput {
	spec := requestedSpec(&in)
	in.KeySpec, in.CustomerMasterKeySpec = spec, types.CustomerMasterKeySpec(spec)
	setDefault(&in.KeyUsage, types.KeyUsageTypeEncryptDecrypt)
	setDefault(&in.Origin, types.OriginTypeAwsKms)
	setDefault(&in.Description, aws.String(aws.ToString(in.Description)))
	setDefault(&in.MultiRegion, aws.Bool(aws.ToBool(in.MultiRegion)))
	return &in
}

// checkCreateKey checks the form of each member, then the rules between members.
func checkCreateKey(in *kms.CreateKeyInput) error {
	if in.KeySpec != "" && in.CustomerMasterKeySpec != "" {
		return apierr.Validation("You cannot specify KeySpec and CustomerMasterKeySpec in the same request. " +
			"CustomerMasterKeySpec is deprecated.")
	}
	spec := requestedSpec(in)
	if in.KeyUsage == "" && spec != types.KeySpecSymmetricDefault {
		return apierr.Validation("You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
	}
	if in.KeyUsage != "" && !slices.Contains(keyring.UsagesOf(spec), in.KeyUsage) {
		return apierr.Validation("KeyUsage " + string(in.KeyUsage) + " is not compatible with KeySpec " + string(spec))
	}
	return nil
}

func requestedSpec(in *kms.CreateKeyInput) types.KeySpec {
	switch {
	case in.KeySpec != "":
		return in.KeySpec
	case in.CustomerMasterKeySpec != "":
		return types.KeySpec(in.CustomerMasterKeySpec)
	}
	return types.KeySpecSymmetricDefault
}

func requestedOrigin(in *kms.CreateKeyInput) types.OriginType {
	return cmp.Or(in.Origin, types.OriginTypeAwsKms)
}

// supported returns the spec of the key to make, or the refusal of whatever this service or the token cannot do.
func (c *Client) supported(ctx context.Context, in *kms.CreateKeyInput) (*keyring.Spec, error) {
	switch {
	case in.CustomKeyStoreId != nil || in.XksKeyId != nil:
		return nil, apierr.Unsupported("Custom key stores are not supported.")
	case requestedOrigin(in) != types.OriginTypeAwsKms && in.Origin != types.OriginTypeExternal:
		return nil, apierr.Unsupported("Origin %s is not supported.", in.Origin)
	case in.Origin == types.OriginTypeExternal && keyring.MACSpecOf(requestedSpec(in)) == nil:
		return nil, apierr.Unsupported("Origin EXTERNAL is not supported for KeySpec %s.", requestedSpec(in))
	case aws.ToBool(in.MultiRegion):
		return nil, apierr.Unsupported("Multi-Region keys are not supported.")
	}
	spec, err := supportedSpec(requestedSpec(in), in.KeyUsage)
	if err != nil {
		return nil, err
	}
	if err := c.region.Token.Await(ctx); err != nil { // what a token can do is known since it was first reached
		return nil, err
	}
	if gap := spec.Gap(c.region.Token); gap != nil {
		return nil, gapError(spec, gap)
	}
	return spec, nil
}

// supportedSpec returns the spec for the usage, which AWS KMS pairs, or the refusal of what this service does not make.
func supportedSpec(name types.KeySpec, usage types.KeyUsageType) (*keyring.Spec, error) {
	if spec := keyring.MACSpecOf(name); spec != nil {
		return spec, nil
	}
	if spec := keyring.SignSpecOf(name, usage); spec != nil {
		return spec, spec.NotApproved()
	}
	if keyring.SpecIn(keyring.SignSpecs, name) != nil {
		return nil, apierr.Unsupported("KeyUsage %s is not supported. Use SIGN_VERIFY for KeySpec %s.", usage, name)
	}
	var names []string
	for _, made := range KeySpecs() {
		names = append(names, string(made))
	}
	return nil, apierr.Unsupported("KeySpec %s is not supported. Use one of %s.", name, strings.Join(names, ", "))
}

func gapError(spec *keyring.Spec, gap error) error {
	return apierr.WithCause(apierr.Unsupported("KeySpec %s is not supported by the token: %v.", spec.Name, gap), gap)
}
