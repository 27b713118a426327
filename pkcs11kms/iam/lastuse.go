package iam

import (
	"context"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// AccessKeyLastUsed is when and where an access key was last used, as AWS IAM has it. A use is a request with a right
// signature, whatever became of it. It is known up to six minutes late, and at once when the server that saw it has ended.
type AccessKeyLastUsed struct {
	LastUsedDate time.Time // UTC, whole seconds; the zero Time: never
	ServiceName  string    // kms, or N/A
	Region       string    // or N/A
}

// noneUsed is what AWS IAM has in place of a service and a region.
const noneUsed = "N/A"

// GetAccessKeyLastUsed tells when an access key was last used, and whose it is. As in AWS IAM an access key that there is not
// (any more) is AccessDenied.
func (c *Client) GetAccessKeyLastUsed(ctx context.Context, id string) (owner PrincipalName, used AccessKeyLastUsed, err error) {
	find := c.aboutKey(PrincipalName{}, id)
	req := request{input: input{"accessKeyId": id}, form: checkAccessKeyID(id), rootOnly: true,
		find: func(ctx context.Context) (s subject, missing, err error) {
			if s, missing, err = find(ctx); missing != nil {
				missing = failure(accessDenied, "User: %s is not authorized to perform: %s on resource: access key %s",
					c.caller.arn, ops.GetAccessKeyLastUsed.ActionName(), id)
			}
			return s, missing, err
		}}
	err = c.perform(ctx, ops.GetAccessKeyLastUsed, req, func(ctx context.Context, _ *call, s subject) error {
		owner = PrincipalName{s.record.Type, s.record.Name}
		used, err = c.lastUse(ctx, id)
		return err
	})
	if err != nil {
		return PrincipalName{}, AccessKeyLastUsed{}, err
	}
	return owner, used, nil
}

func (c *Client) lastUse(ctx context.Context, id string) (AccessKeyLastUsed, error) {
	use, err := lastuse.ReadAccessKey(ctx, c.dir.cfg.Store, c.caller.account, id, c.dir.cfg.Regions)
	if err != nil || use == (lastuse.Use{}) {
		return AccessKeyLastUsed{ServiceName: noneUsed, Region: noneUsed}, err
	}
	return AccessKeyLastUsed{use.At, "kms", use.Region}, nil
}

// AccessKeyUsed notes that a caller has proved to hold an access key, by a request to a region. It costs no more than a look at the
// clock.
func (d *Directory) AccessKeyUsed(caller Caller, id, region string) {
	if !caller.IsNobody() && caller.session == nil { // that of a session is in no record
		d.uses.Note(lastuse.AccessKey{Account: caller.account, ID: id, Region: region}, struct{}{})
	}
}

// Run writes the noted uses until ctx ends, and then a last time; and makes signing keys for the day after.
func (d *Directory) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { d.deriveComing(ctx) })
	running.Go(func() { d.watchStoreClock(ctx) })
	running.Go(func() { d.uses.Run(ctx) })
	running.Wait()
}
