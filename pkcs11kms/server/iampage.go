package server

import (
	"encoding/base64"
	"strconv"

	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// page is what a list is asked for: how many, after which.
type page struct {
	Marker   *string
	MaxItems *int32
}

// paged is what an answer tells of the rest of a list.
type paged struct {
	IsTruncated bool
	Marker      *string
}

const defaultItems, mostItems = 100, 1000

func (p page) check() error {
	var v form.Violations
	if n := p.MaxItems; n != nil && *n < 1 {
		v.Add(strconv.Itoa(int(*n)), "maxItems", "have value greater than or equal to 1")
	} else if n != nil && *n > mostItems {
		v.Add(strconv.Itoa(int(*n)), "maxItems", "have value less than or equal to "+strconv.Itoa(mostItems))
	}
	if len(v) > 0 {
		return validation(v.String())
	}
	if p.Marker != nil {
		if _, err := base64.RawURLEncoding.DecodeString(*p.Marker); err != nil || *p.Marker == "" {
			return validation("Invalid Marker.")
		}
	}
	return nil
}

// asked is the page as a list in the store takes it. The page was checked.
func (p page) asked() iam.Page {
	after, _ := base64.RawURLEncoding.DecodeString(text(p.Marker))
	return iam.Page{After: string(after), Limit: p.items()}
}

func (p page) items() int {
	if p.MaxItems == nil {
		return defaultItems
	}
	return int(*p.MaxItems)
}

// upTo is what is told of the rest of a list whose page ends there; empty: there is no more.
func upTo(next string) paged {
	if next == "" {
		return paged{}
	}
	marker := base64.RawURLEncoding.EncodeToString([]byte(next))
	return paged{true, &marker}
}

// pageOf returns the part of a list that is asked for, by a page that was checked. A marker names the last item of the part before, so that
// what has come or gone meanwhile moves nothing. name is what the list is ordered by.
func pageOf[T any](all []T, p page, name func(T) string) (part []T, next paged) {
	if p.Marker != nil {
		after, _ := base64.RawURLEncoding.DecodeString(*p.Marker)
		for len(all) > 0 && name(all[0]) <= string(after) {
			all = all[1:]
		}
	}
	n := p.items()
	if len(all) <= n {
		return all, next
	}
	return all[:n], upTo(name(all[n-1]))
}
