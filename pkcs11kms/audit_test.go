package pkcs11kms

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// auditLog notes events in memory, or fails.
type auditLog struct {
	mu      sync.Mutex // guards what follows
	intents []audit.Event
	records []audit.Event
	intend  error
	record  error

	onRecord func(audit.Event) error // for which nothing is held; nil: record
}

func (l *auditLog) Intend(_ context.Context, e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.intents = append(l.intents, e)
	return l.intend
}

func (l *auditLog) Record(_ context.Context, e audit.Event) error {
	if l.onRecord != nil {
		return l.onRecord(e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, e)
	return l.record
}

// Find implements audit.Searcher: it finds nothing.
func (l *auditLog) Find(context.Context, audit.Query) ([]audit.Found, error) { return nil, nil }

func auditedClient(t testing.TB) (*Client, *auditLog) {
	log := &auditLog{}
	cfg := newConfig(t)
	cfg.Audit = log
	return openClient(t, cfg), log
}

func TestABridgeNeedsAnAuditWriter(t *testing.T) {
	cfg := newConfig(t)
	cfg.Audit = nil
	_, err := cfg.WithDefaults()
	require.ErrorContains(t, err, "no audit writer is given; audit.Discard keeps nothing")
}

// Every call is told to the audit log at its end, with who asked, about which key, and how it was answered; what changes something
// before that as well.
func TestCallsAreToldToTheAuditLog(t *testing.T) {
	c, log := auditedClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	message := []byte("a message")
	_, err := generate(t.Context(), c, key.KeyId, message)
	require.NoError(t, err)
	_, err = c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	_, formErr := c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: aws.String("")})
	requireCode(t, formErr, "ValidationException")
	_, missingErr := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(unknownID)})
	requireCode(t, missingErr, "NotFoundException")
	_, deniedErr := c.As(Caller{}).ListKeys(t.Context(), nil)
	requireCode(t, deniedErr, "AccessDeniedException")

	type told struct {
		operation, principal, resource string
		readOnly                       bool
		err                            error
	}
	root := c.Caller().ARN()
	var intents, records []told
	for _, e := range log.intents {
		intents = append(intents, told{e.Operation, e.Principal, e.Resource, e.ReadOnly, e.Err})
	}
	for _, e := range log.records {
		require.Equal(t, "kms", e.Service)
		require.Equal(t, testRegion, e.Region)
		records = append(records, told{e.Operation, e.Principal, e.Resource, e.ReadOnly, e.Err})
	}
	require.Equal(t, []told{{"CreateKey", root, "", false, nil}, {"EnableKey", root, *key.Arn, false, nil}}, intents)
	require.Equal(t, []told{
		{"CreateKey", root, *key.Arn, false, nil},
		{"GenerateMac", root, *key.Arn, true, nil},
		{"EnableKey", root, *key.Arn, false, nil},
		{"EnableKey", root, "", false, formErr},
		{"DisableKey", root, "", false, missingErr},
		{"ListKeys", "", "", true, deniedErr},
	}, records)
	require.Equal(t, &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: message},
		log.records[1].Input)
	require.Equal(t, []string{"macAlgorithm", "keyId", "dryRun"}, log.records[1].Recorded)
}

// What cannot be written down is not done.
func TestAChangeThatIsNotWrittenDownIsNotMade(t *testing.T) {
	c, log := auditedClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	log.intend = errors.New("the disk is full")
	_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
	requireCode(t, err, "KMSInternalException")
	require.NotContains(t, err.Error(), "disk")
	_, err = generate(t.Context(), c, key.KeyId, []byte("a message"))
	require.NoError(t, err, "the key is enabled, and reading asks for no intent")

	log.intend, log.record = nil, errors.New("the disk is full")
	_, err = generate(t.Context(), c, key.KeyId, []byte("a message"))
	requireCode(t, err, "KMSInternalException")
	log.record = nil
}

// A stream has a record at its beginning and one at its end, with the number of its bytes, and no other.
func TestAStreamIsRecordedTwice(t *testing.T) {
	c, log := auditedClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for name, end := range map[string]struct {
		end  func(*MACStream) error
		code string
	}{
		"sum":       {func(s *MACStream) error { _, err := s.Sum(); return err }, ""},
		"abandoned": {(*MACStream).Close, "canceled"},
		"refused": {func(s *MACStream) error {
			_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
			require.NoError(t, err)
			_, err = s.Sum()
			requireCode(t, err, "DisabledException")
			_, err = c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: key.KeyId})
			return err
		}, "DisabledException"},
	} {
		log.records = nil
		s, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		_, err = s.Write(make([]byte, 5000))
		require.NoError(t, err)
		require.NoError(t, end.end(s), name)
		require.NoError(t, s.Close())
		var streams []audit.Event
		for _, e := range log.records {
			if e.Operation == "GenerateMac" {
				streams = append(streams, e)
			}
		}
		require.Len(t, streams, 2, name)
		require.Equal(t, [2]audit.Kind{audit.Call, audit.StreamEnd}, [2]audit.Kind{streams[0].Kind, streams[1].Kind})
		require.Equal(t, streams[0].RequestID, streams[1].RequestID)
		require.NotEmpty(t, streams[0].RequestID)
		require.Equal(t, *key.Arn, streams[1].Resource)
		require.Equal(t, map[string]any{"bytes": int64(5000)}, streams[1].Additional)
		if end.code == "" {
			require.NoError(t, streams[1].Err)
		} else {
			require.ErrorContains(t, streams[1].Err, end.code)
		}
	}
	log.record = errors.New("the disk is full")
	_, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	requireCode(t, err, "KMSInternalException")
	log.record = nil
	s, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	log.record = errors.New("the disk is full")
	tag, err := s.Sum()
	requireCode(t, err, "KMSInternalException")
	require.Nil(t, tag)
	log.record = nil
	requireSessionsBack(t, c)
}

// What the service destroys by itself is an event of its own, with an intent before it; without that, nothing is destroyed.
func TestTheJanitorIsRecorded(t *testing.T) {
	log, clk := &auditLog{}, newClock()
	cfg := newConfig(t)
	cfg.Audit, cfg.Now = log, clk.Now
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/stays", key.KeyId)
	<-c.bridge.core.Keys.Settled()
	_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId, PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	clk.Advance(8 * 24 * time.Hour)
	log.intents, log.records = nil, nil
	log.intend = errors.New("the disk is full")
	require.ErrorIs(t, c.bridge.core.Keys.DestroyDue(t.Context()), log.intend)
	require.Len(t, objectsOf(t, c.region.Token), 1)
	aliases, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{})
	require.NoError(t, err)
	require.Len(t, aliases.Aliases, 1)
	log.intend, log.intents, log.records = nil, nil, nil
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	require.Empty(t, objectsOf(t, c.region.Token))
	require.Len(t, log.intents, 1)
	require.Len(t, log.records, 1)
	told := log.records[0]
	require.Equal(t, []any{audit.ServiceEvent, "kms", "DeleteKey", testRegion, testAccount, *key.Arn, nil, true, log.intents[0].RequestID},
		[]any{told.Kind, told.Service, told.Operation, told.Region, told.Account, told.Resource, told.Err, told.Intended, told.RequestID})
	require.Equal(t, audit.Intent, log.intents[0].Kind)
}

// Of very many grants that go with a sealed key each stands in a record as well, a batch in each.
func TestRemovalsTellEachGrant(t *testing.T) {
	log, clk := &auditLog{}, newClock()
	cfg := newConfig(t)
	cfg.Audit, cfg.Now, cfg.SealRecords = log, clk.Now, true
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	const place = "/" + testRegion + "/" + testAccount + "/"
	want := map[string]bool{"key" + place + *key.KeyId: true, "grantee" + place + *key.KeyId + "/" + testAccount + "/" + testAccount: true}
	for range 130 {
		want["grant"+place+*mustGrant(t, c, grantInput(key.KeyId, c, opMAC)).GrantId] = true
	}
	schedule(t, c, key.KeyId, 7)
	clk.Advance(8 * day)
	log.records = nil
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	deleted := map[string]bool{}
	for _, e := range log.records {
		require.LessOrEqual(t, len(e.Wrote.Last), 63)
		require.Equal(t, *key.Arn, e.Resource)
		for _, w := range e.Wrote.Last {
			if w.Deleted {
				deleted[w.Record] = true
			}
		}
	}
	require.Equal(t, want, deleted)
}

// What a removal deletes from a sealed store stands in its record: the key, and the aliases that went before it.
func TestRemovalsTellWhatTheyDelete(t *testing.T) {
	log, clk := &auditLog{}, newClock()
	cfg := newConfig(t)
	cfg.Audit, cfg.Now, cfg.SealRecords = log, clk.Now, true
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/gone", key.KeyId)
	<-c.bridge.core.Keys.Settled()
	_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId, PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	clk.Advance(8 * 24 * time.Hour)
	log.records = nil
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	require.Len(t, log.records, 1)
	deleted := map[string]bool{}
	for _, w := range log.records[0].Wrote.Last {
		deleted[w.Record] = w.Deleted
	}
	require.Equal(t, map[string]bool{
		"key/" + testRegion + "/" + testAccount + "/" + *key.KeyId: true,
		"alias/" + testRegion + "/" + testAccount + "/alias/gone":  true,
	}, deleted)
}

// A removal that has failed is recorded as one, with what kept it; one that another process was faster with says so.
func TestRemovalsThatFailAreRecorded(t *testing.T) {
	log, clk := &auditLog{}, newClock()
	cfg := newConfig(t)
	cfg.Audit, cfg.Now = log, clk.Now
	c, store, _ := withFaultsAnd(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	<-c.bridge.core.Keys.Settled()
	_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId, PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	clk.Advance(8 * 24 * time.Hour)
	removal := func(onDelete func(keystore.Change) error) audit.Event {
		log.records = nil
		store.hook(func(changes []keystore.Change) error {
			for _, change := range changes {
				if change.Op == keystore.Delete {
					return onDelete(change)
				}
			}
			return nil
		}, nil)
		_ = c.bridge.core.Keys.DestroyDue(t.Context()) // what comes of it is in the record
		_, _ = c.bridge.core.Keys.Tidy(t.Context())
		require.NotEmpty(t, log.records)
		require.Equal(t, "DeleteKey", log.records[0].Operation)
		return log.records[0]
	}
	told := removal(func(keystore.Change) error { return errDisk })
	require.ErrorIs(t, told.Err, errDisk)
	require.NotContains(t, told.Additional, "outcome")
	told = removal(func(change keystore.Change) error {
		_, err := store.Store.Commit(t.Context(), change)
		return err
	})
	require.ErrorIs(t, told.Err, keystore.ErrConflict)
	require.Equal(t, "another process was faster", told.Additional["outcome"])
}
