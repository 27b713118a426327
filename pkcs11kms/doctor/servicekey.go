package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// ServiceKey is a key of this program's own.
type ServiceKey struct {
	Purpose string    `json:"Purpose"` // audit
	Epoch   uint32    `json:"Epoch"`   // its number among those of its purpose
	Present bool      `json:"Present"` // it makes what is new; what an earlier one has made is good still
	Region  string    `json:"Region"`
	CKAID   string    `json:"CkaId"` // hexadecimal
	KeySpec string    `json:"KeySpec"`
	Created time.Time `json:"CreationDate"`
}

// servicePurposes are the service keys that can be followed by others, and how.
var servicePurposes = map[string]struct {
	first  string // the id of the first
	rotate func(context.Context, *core.Core) (uint32, error)
}{
	"audit": {keyring.AuditKey, func(ctx context.Context, inside *core.Core) (uint32, error) { return inside.RotateAudit(ctx) }},
}

// ServicePurposes are what service keys can be rotated for.
func ServicePurposes() []string { return slices.Sorted(maps.Keys(servicePurposes)) }

// CheckServicePurpose refuses what is none of ServicePurposes.
func CheckServicePurpose(purpose string) error {
	if _, ok := servicePurposes[purpose]; !ok {
		return refused(fmt.Sprintf("there are no service keys for %q", purpose), "give one of "+strings.Join(ServicePurposes(), ", "), nil)
	}
	return nil
}

// ServiceKeys returns the service keys that can be rotated, the oldest of a purpose first. The client's caller needs the permission
// pkcs11kms:ListServiceKeys.
func ServiceKeys(ctx context.Context, c *pkcs11kms.Client) (keys []ServiceKey, err error) {
	err = pkcs11kms.Administer(ctx, c, ops.ListServiceKeys, nil, func(ctx context.Context, inside *core.Core, _ []keystore.Change) error {
		keys, err = serviceKeys(ctx, inside)
		return err
	})
	return keys, err
}

func serviceKeys(ctx context.Context, inside *core.Core) (keys []ServiceKey, err error) {
	for _, purpose := range ServicePurposes() {
		epochs, err := inside.Keys.Epochs(ctx, servicePurposes[purpose].first)
		if err != nil {
			return nil, err
		}
		for i, e := range epochs {
			keys = append(keys, ServiceKey{Purpose: purpose, Epoch: e.Epoch, Present: i == len(epochs)-1, Region: e.Record.Region,
				CKAID: e.Record.CKAID.String(), KeySpec: e.Record.Spec, Created: e.Record.Created})
		}
	}
	return keys, nil
}

// RotateServiceKey has the present service key of a purpose followed by another one, which it makes, beside all processes that use the
// store; they use it at once. A rotation that was begun and not finished is finished. It returns the number of the new key. The client's
// caller needs the permission pkcs11kms:RotateServiceKey.
func RotateServiceKey(ctx context.Context, c *pkcs11kms.Client, purpose string) (epoch uint32, err error) {
	if err := CheckServicePurpose(purpose); err != nil {
		return 0, err
	}
	run := func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
		if len(precondition) > 0 {
			if _, err := inside.Cache.Commit(ctx, precondition...); err != nil {
				return err
			}
		}
		epoch, err = servicePurposes[purpose].rotate(ctx, inside)
		return whyNotRotated(purpose, err)
	}
	err = pkcs11kms.Administer(ctx, c, ops.RotateServiceKey, map[string]any{"purpose": purpose}, run)
	return epoch, err
}

// whyNotRotated says what to do about an error of a rotation.
func whyNotRotated(purpose string, err error) error {
	switch {
	case errors.Is(err, core.ErrNotSealed):
		return refused("the audit log is not sealed, and so has no key", "config.yaml has audit.file: off", err)
	case errors.Is(err, core.ErrNoServiceKey):
		return refused(fmt.Sprintf("there is no service key for %s yet, so there is nothing to rotate", purpose),
			"it is made when it is needed first", err)
	}
	return err
}
