package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// auditLog notes what it is told, and does something before a change.
type auditLog struct {
	mu      sync.Mutex // guards what follows
	records []audit.Event
	intend  func()
}

func (l *auditLog) Intend(context.Context, audit.Event) error {
	l.mu.Lock()
	intend := l.intend
	l.intend = nil
	l.mu.Unlock()
	if intend != nil {
		intend()
	}
	return nil
}

func (l *auditLog) Record(_ context.Context, e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, e)
	return nil
}

// audited is a client whose calls are told to a log.
func audited(t *testing.T) (*client, *auditLog) {
	log := &auditLog{}
	cfg := newConfig(t)
	cfg.Audit = log
	return openClient(t, cfg), log
}

// What the audit log may show of an operation is in its event, by the name that the table has.
func TestAdministrationIsRecorded(t *testing.T) {
	c, log := audited(t)
	id := foreignObject(t, c)
	m, _ := mustAdopt(t, c, AdoptOptions{ID: id, KeySpec: types.KeySpecHmac256, DestroyWithKey: true})
	other := []byte("others'")
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, other, "others'")
	require.NoError(t, err)
	require.NoError(t, DestroyObject(t.Context(), c.Client, other))
	_, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	_, err = ProbeTokenObjects(t.Context(), c.Client, types.KeySpecHmac256)
	require.NoError(t, err)
	told := map[string]any{}
	for _, e := range log.records {
		if e.Kind == audit.ServiceEvent { // of the janitor, which removes what the probe leaves
			continue
		}
		require.Equal(t, [3]string{"pkcs11kms", testRegion, c.Caller().ARN()}, [3]string{e.Service, e.Region, e.Principal})
		in := e.Input.(map[string]any)
		told[e.Operation] = in
		for _, member := range ops.Find(e.Service, e.Operation).Record {
			require.Contains(t, in, member, e.Operation)
		}
	}
	require.Equal(t, map[string]any{
		"AdoptKey": map[string]any{"region": testRegion, "label": "", "ckaId": hex.EncodeToString(id), "keySpec": m.KeySpec,
			"deletion": keystore.AdoptedDestroy},
		"DestroyObject":     map[string]any{"region": testRegion, "ckaId": hex.EncodeToString(other)},
		"RepairRecords":     map[string]any(nil),
		"ProbeTokenObjects": map[string]any{"region": testRegion, "keySpec": m.KeySpec},
	}, told)
}

// Who loses the permission before the change is made is refused, and nothing has changed.
func TestAdministrationIsBoundToThePermission(t *testing.T) {
	c, log := audited(t)
	root := c.bridge.IAM().As(c.bridge.Root())
	name := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Operator"}
	made, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	caller, err := c.bridge.Caller(t.Context(), made.ARN)
	require.NoError(t, err)
	operator := c.As(caller)
	id := foreignObject(t, c)
	for what, call := range map[string]func() error{
		"AdoptKey": func() error {
			_, _, err := AdoptKey(t.Context(), operator, AdoptOptions{ID: id, KeySpec: types.KeySpecHmac256})
			return err
		},
		"DestroyObject": func() error { return DestroyObject(t.Context(), operator, id) },
		"ProbeTokenObjects": func() error {
			_, err := ProbeTokenObjects(t.Context(), operator, types.KeySpecHmac256)
			return err
		},
	} {
		require.NoError(t, root.PutPrincipalPolicy(t.Context(), name, "p",
			`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "pkcs11kms:*", "Resource": "*"}}`))
		log.mu.Lock()
		log.intend = func() {
			if err := root.DeletePrincipalPolicy(t.Context(), name, "p"); err != nil {
				t.Error(err)
			}
		}
		log.mu.Unlock()
		api, ok := errors.AsType[smithy.APIError](call())
		require.True(t, ok, what)
		require.Equal(t, "AccessDeniedException", api.ErrorCode(), what)
		require.Zero(t, keyCount(t, c), what)
		requireNoClaim(t, c)
		requireObject(t, c, id)
	}
}

// A claim that is taken away meanwhile does not make the object be destroyed once more.
func TestDestroyObjectWithoutItsClaim(t *testing.T) {
	c, store, _ := withFaults(t)
	id := foreignObject(t, c)
	store.hook(func(changes []keystore.Change) error {
		if changes[0].Op != keystore.Delete {
			return nil
		}
		store.hook(nil, nil)
		_, err := store.Store.Commit(t.Context(), changes...)
		return err
	}, nil)
	require.NoError(t, DestroyObject(t.Context(), c.Client, id))
	requireNoClaim(t, c)
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, DestroyObject(t.Context(), c.Client, id), &refused)
	require.ErrorIs(t, refused, token.ErrKeyMissing)
}
