package doctor

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Untried is what nobody knows of the token of a region before a key is made in it.
type Untried struct {
	Region   string
	Token    string // its label
	KeySpecs []types.KeySpec
}

// shortRSA is the longest RSA key that is made to try the token by the way: longer ones take seconds.
const shortRSA = 2048

// UntriedKeySpecs tells which key specs the token of a region does not let anybody try by keys that end with their session. It tries the
// others by these, and makes nothing that stays.
func UntriedKeySpecs(ctx context.Context, b *pkcs11kms.Bridge, region string) (u Untried, err error) {
	in := b.Core().Keys.Region(region)
	if in == nil {
		return u, fmt.Errorf("region %q is not configured", region)
	}
	if err := in.Token.Await(ctx); err != nil {
		return u, err
	}
	u.Region, u.Token = in.Name, in.Token.Info().Label
	rsa := false // untried
	for _, spec := range tryable() {
		untried := rsa
		if spec.Pair.RSABits() <= shortRSA {
			if untried, err = spec.Untried(ctx, in.Token); err != nil {
				return u, fmt.Errorf("trying %s keys: %w", spec.Name, err)
			}
		}
		if spec.Pair.RSABits() > 0 {
			rsa = untried
		}
		if untried {
			u.KeySpecs = append(u.KeySpecs, spec.Name)
		}
	}
	return u, nil
}

// tryable are the specs that keys may be made of.
func tryable() (specs []keyring.Spec) {
	for _, name := range pkcs11kms.KeySpecs() {
		if spec := keyring.SpecOf(name); spec != nil {
			specs = append(specs, *spec)
		}
	}
	return specs
}

// Probed is what the trial of a key spec has shown.
type Probed struct {
	KeySpec types.KeySpec
	Gap     error                        // nil if the token makes and uses such keys
	Signs   []types.SigningAlgorithmSpec // by which its keys sign
	Missing []types.SigningAlgorithmSpec // by which they do not, although the spec has them
}

// ProbeTokenObjects makes a key of the spec in the token of the client's region, uses it, and destroys it again: the only trial where a
// token makes no keys that end with their session. A record says so meanwhile, so that the janitor destroys the key if this process dies.
// What the trial shows, the Bridge knows. The client's caller needs the permission pkcs11kms:ProbeTokenObjects. A long RSA key takes its
// time.
func ProbeTokenObjects(ctx context.Context, c *pkcs11kms.Client, name types.KeySpec) (p Probed, err error) {
	spec := keyring.SpecOf(name)
	switch {
	case spec == nil:
		return p, refused(fmt.Sprintf("no keys are made of the spec %q", name), "name another one", nil)
	case spec.NotApproved() != nil:
		return p, spec.NotApproved()
	}
	in := map[string]any{"region": c.Region(), "keySpec": name}
	run := func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
		region := inside.Keys.Region(c.Region())
		err := inside.Keys.Probe(ctx, region, spec, precondition)
		if gap, ok := errors.AsType[*token.GapError](err); ok && !token.MayHaveMade(err) {
			p = Probed{KeySpec: name, Gap: gap}
			return nil
		}
		p = Probed{KeySpec: name, Signs: spec.Signing(region.Token), Missing: spec.Lacking(region.Token)}
		return err
	}
	if err = pkcs11kms.Administer(ctx, c, ops.ProbeTokenObjects, in, run); err != nil {
		return Probed{}, err
	}
	return p, nil
}
