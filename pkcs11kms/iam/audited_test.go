package iam

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// The audit log is asked before anything is written, and told how every call ended; what it refuses is not done.
func TestAuditLog(t *testing.T) {
	r := newRig(t)
	stranger := r.as(t, "Stranger", "")
	*r.log = recorder{}
	mustCreatePrincipal(t, r.Client, producer)
	require.Error(t, second(stranger.GetPrincipal(t.Context(), producer)))
	require.Error(t, second(r.GetPrincipal(t.Context(), PrincipalName{keystore.PrincipalRole, "a b"})), "of a wrong form")
	require.NoError(t, second(r.ListPrincipals(t.Context(), keystore.PrincipalRole, "")))
	require.Len(t, r.log.intended, 1)
	require.Len(t, r.log.recorded, 4)
	require.Empty(t, r.log.recorded[3].Resource, "a list is of nothing that has a name")
	made := r.log.recorded[0]
	require.Equal(t, [5]string{"iam", "CreateRole", testAccount, rootARN, "arn:aws:iam::" + testAccount + ":role/JwtProducer"},
		[5]string{made.Service, made.Operation, made.Account, made.Principal, made.Resource})
	require.NoError(t, made.Err)
	require.Equal(t, producer.Name, made.Input.(map[string]any)["roleName"])
	require.Contains(t, made.Recorded, "roleName")
	require.Equal(t, "AccessDenied", errorCode(r.log.recorded[1].Err))
	require.Equal(t, "ValidationError", errorCode(r.log.recorded[2].Err))

	r.log.refuse = errors.New("the log is full")
	require.ErrorIs(t, r.DeletePrincipal(t.Context(), producer), r.log.refuse)
	_, err := r.GetPrincipal(t.Context(), producer)
	require.NoError(t, err)
}

// Members that the audit log may record are among those that a request has.
func TestRecordedMembersAreInTheRequests(t *testing.T) {
	r := newRig(t)
	seen := map[string]map[string]bool{}
	r.mustHave(t)
	*r.log = recorder{}
	for _, row := range append(policyRequests(freshPolicy), providerRequests()...) {
		require.NoError(t, row.call(t.Context(), r.Client), row.name)
	}
	for _, name := range []PrincipalName{alice, producer, groupName("Admins")} {
		x := newTarget(t, r, name)
		for _, how := range requests(x) {
			require.NoError(t, how.call(t.Context(), r.Client))
		}
		for _, end := range ending(x) {
			require.NoError(t, end.call(t.Context(), r.Client))
		}
		require.NoError(t, r.DeletePrincipal(t.Context(), PrincipalName{name.Type, "Fresh"}))
	}
	for _, e := range r.log.recorded {
		if seen[e.Operation] == nil {
			seen[e.Operation] = map[string]bool{}
		}
		for member := range e.Input.(map[string]any) {
			seen[e.Operation][member] = true
		}
		for member, value := range e.Input.(map[string]any) {
			assert.NotContains(t, fmt.Sprint(value), "secret", member)
		}
		requireRecord(t, e)
	}
	for op := range ops.All {
		if op.Service != "iam" {
			continue
		}
		for _, member := range op.Record {
			assert.True(t, seen[op.Name][member], "%s has no %s", op.Name, member)
		}
	}
}

// requireRecord holds what the record of an allowed call has.
func requireRecord(t *testing.T, e audit.Event) {
	t.Helper()
	var record map[string]any
	require.NoError(t, json.Unmarshal(audit.AppendRecord(nil, &e, time.Now()), &record))
	op := ops.Find(e.Service, e.Operation)
	require.Equal(t, []any{"iam.amazonaws.com", e.Operation, testRegion, op.Read, rootARN, testAccount},
		[]any{record["eventSource"], record["eventName"], record["awsRegion"], record["readOnly"],
			record["userIdentity"].(map[string]any)["arn"], record["recipientAccountId"]})
	require.Equal(t, op.Writes, e.Intended)
	parameters, _ := record["requestParameters"].(map[string]any)
	for member, value := range e.Input.(map[string]any) {
		if slices.Contains(op.Record, member) && !reflect.ValueOf(value).IsZero() {
			require.Contains(t, parameters, member, e.Operation)
		}
	}
	elements, _ := record["responseElements"].(map[string]any)
	require.Len(t, elements, len(op.Respond), e.Operation)
	if e.Operation == "CreateAccessKey" {
		made := elements["accessKey"].(map[string]any)
		require.Regexp(t, `^AKIA\w{16}$`, made["accessKeyId"])
		require.Len(t, made, 4, "its owner, status and time, and no secret")
	}
}

// What is not written down is not answered, not even beside the error.
func TestWhatIsNotRecordedIsNotAnswered(t *testing.T) {
	r := newRig(t)
	x := newTarget(t, r, alice)
	r.log.unrecorded = errors.New("the log is full")
	for what, got := range map[string]func() (any, error){
		"CreateUser": func() (any, error) {
			return r.CreatePrincipal(t.Context(), PrincipalName{keystore.PrincipalUser, "Fresh"}, PrincipalOptions{})
		},
		"GetUser":          func() (any, error) { return r.GetPrincipal(t.Context(), x.name) },
		"ListUsers":        func() (any, error) { return r.ListPrincipals(t.Context(), x.name.Type, "") },
		"GetUserPolicy":    func() (any, error) { return r.GetPrincipalPolicy(t.Context(), x.name, "own") },
		"ListUserPolicies": func() (any, error) { return r.ListPrincipalPolicies(t.Context(), x.name) },
		"ListUserTags":     func() (any, error) { return r.ListPrincipalTags(t.Context(), x.name) },
		"CreateAccessKey":  func() (any, error) { return r.CreateAccessKey(t.Context(), x.name) },
		"ListAccessKeys":   func() (any, error) { return r.ListAccessKeys(t.Context(), x.name) },
		"GetAccessKeyLastUsed": func() (any, error) {
			owner, used, err := r.GetAccessKeyLastUsed(t.Context(), x.accessKey)
			assert.Empty(t, owner)
			return used, err
		},
	} {
		answer, err := got()
		assert.ErrorIs(t, err, r.log.unrecorded, what)
		assert.Empty(t, answer, what)
	}
}
