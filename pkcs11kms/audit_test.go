package pkcs11kms

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// auditLog notes events in memory, or fails.
type auditLog struct {
	mu      sync.Mutex // guards what follows
	intents []audit.Event
	records []audit.Event
	intend  error
	record  error
}

func (l *auditLog) Intend(_ context.Context, e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.intents = append(l.intents, e)
	return l.intend
}

func (l *auditLog) Record(_ context.Context, e audit.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, e)
	return l.record
}

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
		{"CreateKey", root, "", false, nil},
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
