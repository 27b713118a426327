package audit

import (
	"errors"

	"github.com/google/uuid"
)

// A call about a key of another account is recorded for both accounts, as CloudTrail does: once for the caller's, and once for the key's,
// which learns the account and the unique id of the caller and not its name. What was denied is recorded for the caller's alone, and tells
// nothing of a key: whether there is one is not the caller's business.

// ForOwner returns the event of a call as it is recorded for the account of the key; ok tells whether it is. For Writers other than a Log,
// which records both.
func (e *Event) ForOwner() (owners Event, ok bool) {
	if !e.shared() || e.forOwner {
		return Event{}, false
	}
	owners = *e
	owners.forOwner, owners.Intended, owners.Wrote, owners.EventID = true, false, Writes{}, e.OwnerEventID
	return owners, true
}

// recipient is the account that a record is for.
func (e *Event) recipient() string {
	if e.forOwner {
		return e.Owner
	}
	return e.Account
}

// shared tells whether the call is recorded for the account of the key as well.
func (e *Event) shared() bool {
	return e.Owner != "" && e.Kind == Call && !e.hidden() && e.SharedID != uuid.Nil
}

// hidden tells whether the record says nothing of the key: the caller, of another account, is not allowed to do what it asks for.
func (e *Event) hidden() bool {
	var api interface { // smithy.APIError
		error
		ErrorCode() string
	}
	return e.Owner != "" && errors.As(e.Err, &api) && api.ErrorCode() == "AccessDeniedException"
}
