package pkcs11kms

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
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
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// A key is made in three steps, and whoever dies between two of them leaves something that the janitor can finish:
//
//  1. the record, in the state Creating, with the CKA_ID that the object will have and the instance that works on it;
//  2. the object in the token;
//  3. the record again, now Enabled.
//
// The record comes first because an object that no record names could never be told from another application's. The
// record is invisible until step 3. When step 2 or 3 fails, the record goes to Deleting, the object is destroyed and
// the record removed: the same way that the janitor takes.

// CreateKey generates a key in the token and returns its metadata. KeySpec is HMAC_224, HMAC_256, HMAC_384 or HMAC_512 with
// the KeyUsage GENERATE_VERIFY_MAC, or RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521,
// ECC_SECG_P256K1 or ECC_NIST_EDWARDS25519 with SIGN_VERIFY; both must be given. Other specs, usages, origins, multi-Region keys are refused with
// UnsupportedOperationException, and so is what the token cannot do. A Policy is checked as PutKeyPolicy checks it, and Tags
// need the permission for TagResource. It is not idempotent: a call repeated makes a second key.
func (c *Client) CreateKey(ctx context.Context, in *kms.CreateKeyInput, optFns ...func(*kms.Options)) (*kms.CreateKeyOutput, error) {
	return perform(ctx, c, ops.CreateKey, in, optFns, func(_ *Client, in *kms.CreateKeyInput) (request, error) {
		return request{given: givenCreate(in)}, checkCreateKey(in)
	}, func(
		ctx context.Context, c *call, in *kms.CreateKeyInput, _ *key,
	) (*kms.CreateKeyOutput, error) {
		spec, err := c.supported(in)
		if err != nil {
			return nil, err
		}
		record := newKeyRecord(c.region, c.caller.account, uuid.NewString())
		record.Description = aws.ToString(in.Description)
		if err := c.grantedCreate(ctx, in, &c.req, &record); err != nil {
			return nil, err
		}
		k, err := c.bridge.makeKey(ctx, c.region, spec, record, place{}, c.precondition)
		if gap, ok := errors.AsType[*token.GapError](err); ok {
			return nil, gapError(spec, gap)
		}
		if err != nil {
			return nil, err
		}
		return &kms.CreateKeyOutput{KeyMetadata: k.metadata()}, nil
	})
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
		k := &key{record: *record, arn: arn} // what it will be
		k.record.Spec, k.record.Usage, k.record.Origin = string(requestedSpec(in)), string(in.KeyUsage), string(types.OriginTypeAwsKms)
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

// supported returns the spec of the key to make, or the refusal of whatever this service or the token cannot do.
func (c *Client) supported(in *kms.CreateKeyInput) (*keyring.Spec, error) {
	switch {
	case in.CustomKeyStoreId != nil || in.XksKeyId != nil:
		return nil, apierr.Unsupported("Custom key stores are not supported.")
	case in.Origin != "" && in.Origin != types.OriginTypeAwsKms:
		return nil, apierr.Unsupported("Origin %s is not supported.", in.Origin)
	case aws.ToBool(in.MultiRegion):
		return nil, apierr.Unsupported("Multi-Region keys are not supported.")
	}
	spec, err := supportedSpec(requestedSpec(in), in.KeyUsage)
	if err != nil {
		return nil, err
	}
	if gap := spec.Gap(c.region.token); gap != nil {
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
		return spec, nil
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

// newKeyRecord begins the record of a key that is to be made in the region's token.
func newKeyRecord(r *region, account, id string) keystore.Key {
	return keystore.Key{Region: r.name, Account: account, ID: id, CKAID: newCKAID(r)}
}

func newCKAID(r *region) keystore.HexBytes {
	id := make(keystore.HexBytes, r.token.Capabilities().IDBytes)
	rand.Read(id) // never fails, see crypto/rand
	return id
}

// idAttempts is how many CKA_IDs are tried on tokens where ids are so short that a random one may be taken.
const idAttempts = 32

// place is where a new record goes: in the place of one that has this version (0: of none), if the others are as they are said
// to be.
type place struct {
	expect uint64
	others []keystore.Change
}

// makeKey makes the key of a new record, in the three steps: keystore.ErrConflict when its place is taken, or, at the end, when
// what precondition names has changed.
func (b *Bridge) makeKey(
	ctx context.Context, r *region, spec *keyring.Spec, record keystore.Key, at place, precondition []keystore.Change,
) (k *key, err error) {
	for range idAttempts {
		k, err = b.tryMakeKey(ctx, r, spec, record, at, precondition)
		if !errors.Is(err, token.ErrKeyExists) && !errors.Is(err, keystore.ErrExists) {
			break
		}
		record.CKAID = newCKAID(r)
	}
	return k, err
}

func (b *Bridge) tryMakeKey(
	ctx context.Context, r *region, spec *keyring.Spec, record keystore.Key, at place, precondition []keystore.Change,
) (*key, error) {
	record.State, record.Instance = keystore.Creating, b.store.Instance()
	record.Spec, record.Usage = string(spec.Name), string(spec.Usage)
	record.Origin = string(types.OriginTypeAwsKms)
	record.Created = b.wallClock()

	done := b.inProgress.add(record.Ref())
	defer done()
	version, err := b.commitCounted(ctx, record, 1, record.Put(at.expect), at.others...)
	if err != nil {
		return nil, err
	}
	crash.At("record-written")
	object, public, err := spec.Generate(ctx, r.token, record)
	if err != nil {
		b.undoCreate(ctx, record, version, err)
		return nil, err
	}
	crash.At("object-made")
	made := record
	made.State, made.Instance, made.PublicKey = keystore.Enabled, "", public
	enabled, err := b.cache.Commit(ctx, append([]keystore.Change{made.Put(version)}, precondition...)...)
	if err != nil {
		b.undoCreate(ctx, record, version, err)
		return nil, err
	}
	crash.At("flipped")
	r.objects.Store(record.CKAID.String(), object)
	return b.decodeKey(keystore.Record{Ref: made.Ref(), Version: enabled, Value: made.Put(0).Value})
}

// commitCounted commits a change that makes or removes a key record together with the counter of the account's keys.
// A race that is lost for the counter alone is run again. The batch is bound to others.
func (b *Bridge) commitCounted(
	ctx context.Context, record keystore.Key, n int, change keystore.Change, others ...keystore.Change,
) (version uint64, err error) {
	err = records.RetryConflicts(ctx, func() error {
		count, err := b.countKey(ctx, record, n)
		if err != nil {
			return err
		}
		version, err = b.cache.Commit(ctx, append(append(count, others...), change)...)
		if !errors.Is(err, keystore.ErrConflict) {
			return err
		}
		rec, getErr := b.store.Get(ctx, change.Ref) // whose conflict was it?
		switch {
		case getErr != nil && !errors.Is(getErr, keystore.ErrNotFound):
			return getErr
		case rec.Version != change.Expect, len(others) > 0:
			return fmt.Errorf("key %s: %w", record.ID, errLostRecord)
		}
		return err
	})
	if errors.Is(err, errLostRecord) {
		err = fmt.Errorf("%w: %w", keystore.ErrConflict, err)
	}
	return version, err
}

// errLostRecord tells a conflict over the record itself from one over its counter.
var errLostRecord = errors.New("its record was changed by somebody else")

// undoCreate removes what createKey began. What cannot be removed now is left to the janitor, under the record.
func (b *Bridge) undoCreate(ctx context.Context, record keystore.Key, version uint64, cause error) {
	// The caller's time may be over, which must not keep us from tidying up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.cfg.CallTimeout)
	defer cancel()
	var hung *token.HungError
	if errors.As(cause, &hung) {
		// The token may still make the object. Keep the janitor of this process away until it has come back.
		b.inProgress.keep(record.Ref(), hung.Done())
		return
	}
	if _, err := b.finish(ctx, record, version); err != nil {
		b.log.Warn("a key that could not be created is left to the janitor", "key", record.ID, "error", err)
	}
}
