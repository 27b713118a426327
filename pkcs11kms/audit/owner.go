package audit

import (
	"errors"
	"slices"
)

// A call about a key of another account, or by which a role of one is assumed, is recorded for both accounts, as CloudTrail does: once for
// the caller's, and once for the other, which learns the account and the unique id of the caller and not its name. What was denied is
// recorded for the caller's alone, and tells nothing of a key: whether there is one is not the caller's business.

// ForOwner returns the event of a call as it is recorded for the account of the key or role; ok tells whether it is. For Writers other than
// a Log, which records both.
func (e *Event) ForOwner() (owners Event, ok bool) {
	if !e.shared() || e.Across.forOwner {
		return Event{}, false
	}
	across := *e.Across
	across.forOwner = true
	owners = *e
	owners.Across, owners.EventID, owners.Intended, owners.Wrote = &across, across.EventID, false, Writes{}
	return owners, true
}

// recipient is the account that a record is for.
func (e *Event) recipient() string {
	if e.Across != nil && e.Across.forOwner {
		return e.Across.Owner
	}
	return e.Account
}

// shared tells whether the call is recorded for the other account as well.
func (e *Event) shared() bool { return e.Across != nil && e.Kind == Call && !e.denied() }

// hidden tells whether the record says nothing of the key: the caller, of another account, is not allowed to do what it asks for. That of
// a role which could not be assumed has its ARN as the caller has written it, whether there is such a role or not.
func (e *Event) hidden() bool { return e.Across != nil && e.Service == "kms" && e.denied() }

func (e *Event) denied() bool {
	var api interface { // smithy.APIError
		error
		ErrorCode() string
	}
	return errors.As(e.Err, &api) && slices.Contains([]string{"AccessDenied", "AccessDeniedException"}, api.ErrorCode())
}
