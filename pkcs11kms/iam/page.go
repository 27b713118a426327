package iam

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
)

// Page is a part of a list. The zero Page is all of it.
type Page struct {
	After string // what the call before has returned as next; empty: from the start
	Limit int    // how many are looked at, 1 to 1,000; 0: all. A page of a list with a filter may have fewer, and more come all the same
}

func (p Page) check() error {
	if p.Limit < 0 || p.Limit > keystore.MaxPage || len(p.After) > maxAfter {
		return failure(validationError, "Invalid Marker.")
	}
	return nil
}

// maxAfter is longer than any name and id.
const maxAfter = 256

// eachPage visits the records that read returns, until there are no more or the page is full. visit returns what a page after the record
// begins with; next is that of the last one, or empty when there are no more.
func (c *Client) eachPage(ctx context.Context, page Page, read func(limit int) ([]keystore.Record, error),
	visit func(keystore.Record) (string, error)) (next string, err error) {
	size := page.Limit
	if size == 0 {
		size = keystore.MaxPage
	}
	for {
		recs, err := read(size)
		if err != nil {
			return "", err
		}
		for _, rec := range recs {
			if next, err = visit(rec); err != nil {
				return "", err
			}
		}
		if len(recs) < size {
			return "", nil
		}
		if page.Limit > 0 {
			break
		}
	}
	more, err := read(1)
	if err != nil || len(more) == 0 {
		return "", err
	}
	return next, nil
}

// eachNamed visits a page of the records of a unique index whose values begin with prefix, ordered by them.
func (c *Client) eachNamed(ctx context.Context, index keystore.Index, prefix string, page Page, visit func(keystore.Record) error) (
	next string, err error) {
	after := prefix + page.After
	return c.eachPage(ctx, page, func(limit int) ([]keystore.Record, error) {
		return c.dir.cfg.Store.Range(ctx, index, prefix, after, limit)
	}, func(rec keystore.Record) (string, error) {
		entries, err := keystore.EntriesOf(rec)
		if err != nil {
			return "", err
		}
		after = entries[0].Value
		return after[len(prefix):], visit(rec)
	})
}
