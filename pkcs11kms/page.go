package pkcs11kms

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
)

// page is what a list operation was asked for.
type page struct {
	op     string
	filter string // what else the list is about, such as one key
	limit  *int32
	max    int // the service's own maximum; a larger limit is taken for it
	normal int // when no limit is given
	marker *string
	place  func(keystore.Ref) string // how the marker names a record; nil: by its id, of a list of one account
}

func (p page) size() int {
	if p.limit == nil {
		return p.normal
	}
	return min(int(*p.limit), p.max)
}

// reader returns up to limit records behind an id, in order.
type reader func(ctx context.Context, after string, limit int) ([]keystore.Record, error)

// walk shows one page of records, and returns the marker of the next one, or nil after the last.
func (c *Client) walk(ctx context.Context, p page, read reader, show func(keystore.Record) error) (*string, error) {
	m := marker{Op: p.op, Region: c.region.Name, Account: c.caller.Account(), Filter: p.filter}
	if p.marker != nil {
		var err error
		if m, err = parseMarker(*p.marker, m); err != nil {
			return nil, err
		}
	}
	recs, err := read(ctx, m.After, p.size())
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		if err := show(rec); err != nil {
			return nil, err
		}
	}
	if len(recs) < p.size() {
		return nil, nil
	}
	// A full page is not the last one unless nothing follows it.
	last := recs[len(recs)-1].Ref
	if m.After = last.ID; p.place != nil {
		m.After = p.place(last)
	}
	rest, err := read(ctx, m.After, 1)
	if err != nil || len(rest) == 0 {
		return nil, err
	}
	return aws.String(m.String()), nil
}

// noNextPage refuses every marker: what fits on one page has no next one, and no marker was ever given out.
func noNextPage(marker *string) error {
	if marker != nil {
		return apierr.InvalidMarker()
	}
	return nil
}
