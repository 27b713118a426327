package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// examineHalfMade tells what processes that were killed have left in a token without a name and without a key.
func (d *examination) examineHalfMade(ctx context.Context, region *RegionReport, t *token.Token) {
	found, err := t.HalfMade(ctx)
	if err != nil {
		d.add("object", region.Name, StatusWarning, fmt.Sprintf("whether there are half-made objects could not be found out: %v", err))
		return
	}
	if len(found.Objects) == 0 {
		return
	}
	region.HalfMade = objectReports(found.Objects)
	d.advise("object", region.Name, StatusWarning, DescribeHalfMade(region.HalfMade)+
		" without a CKA_ID, which no record can want: left by a process that was killed while it made a key, or being made just now",
		"have destroyed what is there at two looks, a minute apart: pkcs11kms doctor --destroy-half-made --region "+region.Name)
}

// DescribeHalfMade counts half-made objects for people, such as: 2 half-made objects (CKO_SECRET_KEY, CKO_PRIVATE_KEY).
func DescribeHalfMade(objects []ObjectReport) string {
	var classes []string
	for _, o := range objects {
		classes = append(classes, o.Class)
	}
	noun := "half-made objects"
	if len(objects) == 1 {
		noun = "half-made object"
	}
	return fmt.Sprintf("%d %s (%s)", len(objects), noun, strings.Join(classes, ", "))
}

func objectReports(objects []token.Object) (reports []ObjectReport) {
	for _, o := range objects {
		reports = append(reports, objectReport(o))
	}
	return reports
}

// HalfMadeOptions say how DestroyHalfMade makes sure that nobody is at work.
type HalfMadeOptions struct {
	// Apart lie its two looks. Default: a minute, for which no application is inside the making of one key.
	Apart time.Duration
	// Waiting is told what the first look has found and how long the wait for the second one takes: when it begins, and every ten seconds.
	// Default: nobody is.
	Waiting func(found []ObjectReport, left time.Duration)
}

// DestroyHalfMade destroys the objects that processes have left half made in the token of the client's region, which were killed while they
// made a key, and returns them: those without a CKA_ID, a label and a key that are there, the same ones, at two looks. Each look is a turn
// of its own among the changes of the token, so that no process of this program is making a key meanwhile; the time between the two is for
// other applications. On tokens that are not known to keep such objects it finds none, since what has no CKA_ID may be somebody's there.
// The client's caller needs the permission pkcs11kms:DestroyObject. When ctx ends during the wait nothing is destroyed.
func DestroyHalfMade(ctx context.Context, c *pkcs11kms.Client, o HalfMadeOptions) (destroyed []ObjectReport, err error) {
	in := map[string]any{"region": c.Region(), "ckaId": ""}
	run := func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error {
		destroyed, err = destroyHalfMade(ctx, inside, c.Region(), o, precondition)
		return err
	}
	err = pkcs11kms.Administer(ctx, c, ops.DestroyObject, in, run)
	return destroyed, err
}

func destroyHalfMade(ctx context.Context, inside *core.Core, region string, o HalfMadeOptions, precondition []keystore.Change) (
	[]ObjectReport, error) {
	t := inside.Keys.Region(region).Token
	seen, err := t.HalfMade(ctx)
	if err != nil || len(seen.Objects) == 0 {
		return nil, err
	}
	if err := o.wait(ctx, objectReports(seen.Objects)); err != nil {
		return nil, err
	}
	if len(precondition) > 0 { // the caller may not be allowed any more
		if _, err := inside.Cache.Commit(ctx, precondition...); err != nil {
			return nil, err
		}
	}
	gone, err := t.DestroyHalfMade(ctx, seen)
	if len(gone) > 0 {
		inside.Log.Warn("destroyed what was left of keys that were half made", "region", region, "objects", len(gone))
	}
	return objectReports(gone), err
}

// wait lets the time between the two looks pass.
func (o HalfMadeOptions) wait(ctx context.Context, found []ObjectReport) error {
	left := o.Apart
	if left <= 0 {
		left = time.Minute
	}
	const tell = 10 * time.Second
	for left > 0 {
		if o.Waiting != nil {
			o.Waiting(found, left)
		}
		step := time.NewTimer(min(left, tell))
		select {
		case <-step.C:
			left -= tell
		case <-ctx.Done():
			step.Stop()
			return ctx.Err()
		}
	}
	return nil
}
