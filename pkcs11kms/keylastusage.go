package pkcs11kms

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// GetKeyLastUsage tells when and by which operation the material of a key was last used with success, as GenerateMac, VerifyMac, Sign and
// Verify do, and which record of the audit log tells of it; KeyLastUsage is empty when it was not used since TrackingStartDate. It is
// known at once in the process that has used the key, within a minute in every other, and lost with up to a minute's uses when a
// process is killed.
func (c *Client) GetKeyLastUsage(
	ctx context.Context, in *kms.GetKeyLastUsageInput, optFns ...func(*kms.Options),
) (*kms.GetKeyLastUsageOutput, error) {
	return perform(ctx, c, ops.GetKeyLastUsage, in, optFns, func(_ *Client, in *kms.GetKeyLastUsageInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		ctx context.Context, c *call, _ *kms.GetKeyLastUsageInput, k *key,
	) (*kms.GetKeyLastUsageOutput, error) {
		uses := c.bridge.core.Uses
		last, ok, err := uses.Read(ctx, k.name())
		if err != nil {
			return nil, err
		}
		since, err := uses.Since(ctx, k.name(), k.Record.Created)
		if err != nil {
			return nil, err
		}
		out := &kms.GetKeyLastUsageOutput{KeyId: aws.String(k.Record.ID), KeyCreationDate: aws.Time(k.Record.Created),
			TrackingStartDate: aws.Time(since), KeyLastUsage: &types.KeyLastUsageData{}}
		if ok {
			out.KeyLastUsage = &types.KeyLastUsageData{Operation: types.KeyLastUsageTrackingOperation(last.Operation),
				Timestamp: aws.Time(last.At), CloudTrailEventId: notEmpty(last.Event), KmsRequestId: notEmpty(last.Request)}
		}
		return out, nil
	})
}

// name is the key's, as its uses are noted.
func (k *key) name() lastuse.Key { return nameOf(k.Record) }

func nameOf(r keystore.Key) lastuse.Key {
	return lastuse.Key{Region: r.Region, Account: r.Account, ID: r.ID}
}

// identify gives the record of a use its ids, which are noted with it.
func (c *call) identify(e *audit.Event) {
	if c.eventID == uuid.Nil {
		c.callID, c.eventID = audit.NewUUID(), audit.NewUUID()
	}
	e.CallID, e.EventID = c.callID, c.eventID
}

// noteUse notes the use of a call whose record is written.
func (c *call) noteUse() {
	e := audit.Event{RequestID: c.requestID, CallID: c.callID, EventID: c.eventID, Across: c.across}
	if id := c.caller.RequestID(); id != "" {
		e.RequestID = id
	}
	c.bridge.noteUse(c.used.name(), c.op, &e)
}

// noteUse notes a use by an operation, of which there is a record with the ids of the event.
func (b *Bridge) noteUse(k lastuse.Key, op *ops.Operation, e *audit.Event) {
	use := lastuse.KeyUse{Operation: op.Name, RequestID: e.RequestID, Request: e.CallID}
	if b.cfg.Audit != audit.Discard {
		if use.Event = e.EventID; e.Across != nil {
			use.Event = e.Across.EventID // which the key's account finds
		}
	}
	b.core.Uses.Note(k, use)
}

// notEmpty returns nil for what is not there.
func notEmpty(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
