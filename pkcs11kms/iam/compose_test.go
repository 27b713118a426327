package iam

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

func deny(action string) string {
	return `{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "` + action + `", "Resource": "*"}}`
}

// ways are where the policy of a user can stand.
var ways = map[string]struct {
	give, take func(t testing.TB, r *rig, user PrincipalName, document string)
}{
	"inline": {
		func(t testing.TB, r *rig, user PrincipalName, document string) {
			require.NoError(t, r.PutPrincipalPolicy(t.Context(), user, "w", document))
		},
		func(t testing.TB, r *rig, user PrincipalName, _ string) {
			require.NoError(t, r.DeletePrincipalPolicy(t.Context(), user, "w"))
		},
	},
	"attached": {
		func(t testing.TB, r *rig, user PrincipalName, document string) {
			require.NoError(t, r.AttachPolicy(t.Context(), user, mustCreatePolicy(t, r.Client, "w", document).ARN))
		},
		func(t testing.TB, r *rig, user PrincipalName, _ string) {
			require.NoError(t, r.DetachPolicy(t.Context(), user, policyPrefix+"w"))
			require.NoError(t, r.DeletePolicy(t.Context(), policyPrefix+"w"))
		},
	},
	"group, inline": {
		func(t testing.TB, r *rig, user PrincipalName, document string) {
			mustCreatePrincipal(t, r.Client, groupName("w"))
			require.NoError(t, r.AddUserToGroup(t.Context(), "w", user.Name))
			require.NoError(t, r.PutPrincipalPolicy(t.Context(), groupName("w"), "w", document))
		},
		func(t testing.TB, r *rig, user PrincipalName, _ string) {
			require.NoError(t, r.DeletePrincipalPolicy(t.Context(), groupName("w"), "w"))
			require.NoError(t, r.RemoveUserFromGroup(t.Context(), "w", user.Name))
			require.NoError(t, r.DeletePrincipal(t.Context(), groupName("w")))
		},
	},
	"group, attached": {
		func(t testing.TB, r *rig, user PrincipalName, document string) {
			mustCreatePrincipal(t, r.Client, groupName("w"))
			require.NoError(t, r.AttachPolicy(t.Context(), groupName("w"), mustCreatePolicy(t, r.Client, "w", document).ARN))
			require.NoError(t, r.AddUserToGroup(t.Context(), "w", user.Name))
		},
		func(t testing.TB, r *rig, user PrincipalName, _ string) {
			require.NoError(t, r.RemoveUserFromGroup(t.Context(), "w", user.Name))
			require.NoError(t, r.DetachPolicy(t.Context(), groupName("w"), policyPrefix+"w"))
			require.NoError(t, r.DeletePrincipal(t.Context(), groupName("w")))
			require.NoError(t, r.DeletePolicy(t.Context(), policyPrefix+"w"))
		},
	},
}

// process is another process on the same store, whose time is told by now.
func (r *rig) process(now func() time.Time) *Directory {
	cfg := r.cfg
	cfg.Cache = records.New(cfg.Store, cfg.Log, now)
	return New(cfg)
}

// A policy counts wherever it stands, and no longer than it does: at once in its own process, within a second in others.
func TestPoliciesCountWhereverTheyStand(t *testing.T) {
	for way, how := range ways {
		t.Run(way, func(t *testing.T) {
			r := newRig(t)
			c := r.as(t, "Alice", "")
			now := time.Now()
			other := r.process(func() time.Time { return now }).Client().As(c.caller)
			get := func(c *Client) string {
				return errorCode(second(c.ListPrincipals(t.Context(), keystore.PrincipalRole, "")))
			}
			is := func(want string) {
				t.Helper()
				require.Equal(t, want, get(c))
				now = now.Add(1001 * time.Millisecond)
				require.Equal(t, want, get(other))
			}
			is("AccessDenied")
			how.give(t, r, alice, allowed("iam:ListRoles", "*"))
			is("")
			how.take(t, r, alice, "")
			is("AccessDenied")
			require.NoError(t, r.PutPrincipalPolicy(t.Context(), alice, "all", allowed("*", "*")))
			how.give(t, r, alice, deny("iam:ListRoles"))
			is("AccessDenied")
			how.take(t, r, alice, "")
			is("")
		})
	}
}

// Another default version of a policy, and another policy of a group, count for all who have them.
func TestChangesOfWhatIsAttachedCount(t *testing.T) {
	r := newRig(t)
	c := r.as(t, "Alice", "")
	now := time.Now()
	other := r.process(func() time.Time { return now }).Client().As(c.caller)
	ways["group, attached"].give(t, r, alice, allowed("iam:ListRoles", "*"))
	is := func(want string) {
		t.Helper()
		require.Equal(t, want, errorCode(second(c.ListPrincipals(t.Context(), keystore.PrincipalRole, ""))))
		now = now.Add(1001 * time.Millisecond)
		require.Equal(t, want, errorCode(second(other.ListPrincipals(t.Context(), keystore.PrincipalRole, ""))))
	}
	is("")
	require.NoError(t, second(r.CreatePolicyVersion(t.Context(), policyPrefix+"w", deny("*"), false)))
	is("")
	require.NoError(t, r.SetDefaultPolicyVersion(t.Context(), policyPrefix+"w", "v2"))
	is("AccessDenied")
	require.NoError(t, r.SetDefaultPolicyVersion(t.Context(), policyPrefix+"w", "v1"))
	is("")
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), groupName("w"), "no", deny("*")))
	is("AccessDenied")
	require.NoError(t, r.DeletePrincipalPolicy(t.Context(), groupName("w"), "no"))
	is("")
}

// A policy or group whose record is gone, or is from before it was attached, may have held a deny: nobody who has it may do anything.
func TestMissingAndOlderPartsRefuse(t *testing.T) {
	for _, way := range []string{"attached", "group, inline", "group, attached"} {
		for _, how := range []string{"gone", "older"} {
			t.Run(way+", "+how, func(t *testing.T) {
				r := newRig(t)
				c := r.as(t, "Alice", allowed("*", "*"))
				old := map[keystore.Ref]keystore.Record{}
				keep := func(kind keystore.Kind, prefix string) {
					recs, err := r.cfg.Store.List(t.Context(), kind, "", testAccount, prefix, 10)
					require.NoError(t, err)
					for _, rec := range recs {
						if strings.HasPrefix(rec.Ref.ID, prefix) {
							old[rec.Ref] = rec
						}
					}
				}
				edit := func() {
					keep(keystore.KindManagedPolicy, "")
					keep(keystore.KindPrincipal, "AGPA")
				}
				// The group and the policy as they are before they are changed, and then attached.
				mustCreatePrincipal(t, r.Client, groupName("w"))
				harmless := mustCreatePolicy(t, r.Client, "w", allowMAC)
				edit()
				require.NoError(t, second(r.CreatePolicyVersion(t.Context(), harmless.ARN, deny("*"), true)))
				require.NoError(t, r.PutPrincipalPolicy(t.Context(), groupName("w"), "no", deny("*")))
				if way != "group, inline" {
					target := map[string]PrincipalName{"attached": alice, "group, attached": groupName("w")}[way]
					require.NoError(t, r.AttachPolicy(t.Context(), target, harmless.ARN))
				}
				if way != "attached" {
					require.NoError(t, r.AddUserToGroup(t.Context(), "w", "Alice"))
				}
				ask := func(c *Client) error { return second(c.ListPrincipals(t.Context(), keystore.PrincipalRole, "")) }
				require.Equal(t, "AccessDenied", errorCode(ask(c)))
				for ref, was := range old {
					if (ref.Kind == keystore.KindManagedPolicy) == (way == "group, inline") {
						continue
					}
					if way == "group, attached" && ref.Kind != keystore.KindManagedPolicy {
						continue
					}
					is, err := r.cfg.Store.Get(t.Context(), ref)
					require.NoError(t, err)
					change := keystore.Change{Op: keystore.Delete, Ref: ref, Expect: is.Version}
					if how == "older" {
						entries, err := keystore.EntriesOf(was)
						require.NoError(t, err)
						change = keystore.Change{Op: keystore.Put, Ref: ref, Expect: is.Version, Value: was.Value, Index: entries}
					}
					_, err = r.cfg.Store.Commit(t.Context(), change)
					require.NoError(t, err)
				}
				err := ask(r.process(time.Now).Client().As(c.caller))
				require.Error(t, err, "and not an answer by the other policies")
				require.Empty(t, errorCode(err))
				require.ErrorContains(t, err, map[string]string{"gone": "is not in the store", "older": "was there"}[how])
			})
		}
	}
}

// Who has something detached that is then deleted, and is known only as it was before, is decided anew and not refused for want of it.
func TestWhatWasDetachedAndDeletedIsNotMissed(t *testing.T) {
	for way, how := range ways {
		r := newRig(t)
		c := r.as(t, "Alice", allowed("*", "*"))
		how.give(t, r, alice, deny("iam:ListUsers"))
		now := time.Now()
		dir := r.process(func() time.Time { return now })
		other := dir.Client().As(c.caller)
		ask := func() error { return second(other.ListPrincipals(t.Context(), keystore.PrincipalRole, "")) }
		require.NoError(t, records.IgnoreNotFound(second(dir.principal(t.Context(), testAccount, c.caller.id))))
		how.take(t, r, alice, "")
		require.NoError(t, ask(), way)
	}
}

// A policy that has the name of one that was deleted is another policy.
func TestNamesakesOfPoliciesAndGroupsHaveNothing(t *testing.T) {
	r := newRig(t)
	c := r.as(t, "Alice", "")
	ways["attached"].give(t, r, alice, allowed("*", "*"))
	ways["attached"].take(t, r, alice, "")
	mustCreatePolicy(t, r.Client, "w", allowed("*", "*"))
	mustCreatePrincipal(t, r.Client, groupName("w"))
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), groupName("w"), "w", allowed("*", "*")))
	require.Equal(t, "AccessDenied", errorCode(second(c.ListPrincipals(t.Context(), keystore.PrincipalRole, ""))))
}

// A change that a policy of a group, or a managed one, has permitted is not made once that says something else.
func TestChangesAreBoundToWhatIsAttached(t *testing.T) {
	for name, take := range map[string]func(*testing.T, *rig){
		"another version": func(t *testing.T, r *rig) {
			assertNoError(t, second(r.CreatePolicyVersion(t.Context(), policyPrefix+"w", allowMAC, true)))
		},
		"a deny of the group": func(t *testing.T, r *rig) {
			assertNoError(t, r.PutPrincipalPolicy(t.Context(), groupName("w"), "no", deny("*")))
		},
		"detached": func(t *testing.T, r *rig) {
			assertNoError(t, r.DetachPolicy(t.Context(), groupName("w"), policyPrefix+"w"))
		},
		"removed": func(t *testing.T, r *rig) { assertNoError(t, r.RemoveUserFromGroup(t.Context(), "w", "Admin")) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			c := r.as(t, "Admin", "")
			ways["group, attached"].give(t, r, userName("Admin"), allowed("iam:*", "*"))
			mustCreatePrincipal(t, c, producer)
			now := time.Now() // of another process, which does not see what happens meanwhile
			other := r.process(func() time.Time { return now }).Client().As(c.caller)
			require.NoError(t, second(other.GetPrincipal(t.Context(), producer)))
			r.log.meanwhile = func() { take(t, r) }
			require.Equal(t, "AccessDenied", errorCode(other.DeletePrincipal(t.Context(), producer)))
			require.NoError(t, second(r.GetPrincipal(t.Context(), producer)))
		})
	}
}

func assertNoError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Members of a group may change the group that lets them.
func TestMembersChangeTheirGroup(t *testing.T) {
	r := newRig(t)
	c := r.as(t, "Admin", "")
	ways["group, attached"].give(t, r, userName("Admin"), allowed("iam:*", "*"))
	require.NoError(t, c.PutPrincipalPolicy(t.Context(), groupName("w"), "more", allowMAC))
	require.NoError(t, second(c.CreatePolicyVersion(t.Context(), policyPrefix+"w", allowed("iam:*", "*"), true)))
	require.NoError(t, c.AttachPolicy(t.Context(), userName("Admin"), policyPrefix+"w"))
	require.NoError(t, c.RemoveUserFromGroup(t.Context(), "w", "Admin"))
	require.NoError(t, c.DetachPolicy(t.Context(), userName("Admin"), policyPrefix+"w"))
	require.Equal(t, "AccessDenied", errorCode(c.AttachPolicy(t.Context(), userName("Admin"), policyPrefix+"w")))
}

// The condition key iam:PolicyARN says which policies may be attached and detached.
func TestConditionOnTheAttachedPolicy(t *testing.T) {
	r := newRig(t)
	mine, other := mustCreatePolicy(t, r.Client, "mine", allowMAC), mustCreatePolicy(t, r.Client, "other", allowMAC)
	c := r.as(t, "Admin", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": ["iam:Attach*", "iam:Detach*"],
		"Resource": "*", "Condition": {"ArnEquals": {"iam:PolicyARN": "`+mine.ARN+`"}}}}`)
	for _, name := range []PrincipalName{alice, producer, groupName("g")} {
		mustCreatePrincipal(t, r.Client, name)
		require.NoError(t, c.AttachPolicy(t.Context(), name, mine.ARN))
		require.NoError(t, c.DetachPolicy(t.Context(), name, mine.ARN))
		require.Equal(t, "AccessDenied", errorCode(c.AttachPolicy(t.Context(), name, other.ARN)))
		require.NoError(t, r.AttachPolicy(t.Context(), name, other.ARN))
		require.Equal(t, "AccessDenied", errorCode(c.DetachPolicy(t.Context(), name, other.ARN)))
	}
}

// What one decision looks at is bounded.
func TestTooManyPoliciesRefuse(t *testing.T) {
	r := newRig(t)
	c := r.as(t, "Alice", allowed("*", "*"))
	for p := range maxAttached {
		mustCreatePolicy(t, r.Client, fmt.Sprint("p", p), ofWeight(maxManagedPolicy))
	}
	ask := func() error { return second(c.ListPrincipals(t.Context(), keystore.PrincipalRole, "")) }
	for g := range 5 {
		name := groupName(fmt.Sprint("g", g))
		mustCreatePrincipal(t, r.Client, name)
		for p := range maxAttached {
			require.NoError(t, r.AttachPolicy(t.Context(), name, fmt.Sprint(policyPrefix, "p", p)))
		}
		require.NoError(t, ask())
		require.NoError(t, r.AddUserToGroup(t.Context(), name.Name, "Alice"))
	}
	require.ErrorContains(t, ask(), "more than 262144 are not looked at")
}

// A decision asks the store nothing, and puts nothing together anew, while nothing changes.
func TestWhatIsComposedIsKept(t *testing.T) {
	r := newRig(t)
	c := r.as(t, "Alice", "")
	ways["group, attached"].give(t, r, alice, allowed("*", "*"))
	counted, cfg := &countingStore{Store: r.cfg.Store}, r.cfg
	cfg.Store, cfg.Cache = counted, records.New(counted, cfg.Log, time.Now)
	dir := New(cfg)
	first, err := dir.Identify(t.Context(), c.caller)
	require.NoError(t, err)
	require.Equal(t, 3, counted.reads, "the user, the group and its policy")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		again, err := dir.Identify(t.Context(), c.caller)
		if err != nil || &again.Policies[0] != &first.Policies[0] {
			t.Error("composed anew")
		}
	}))
	require.Equal(t, 3, counted.reads)
}

// BenchmarkIdentify is what every call pays to know its caller: a user with an inline policy, and one with that in a group and attached
// to it.
func BenchmarkIdentify(b *testing.B) {
	for _, way := range []string{"inline", "group, attached"} {
		b.Run(strings.ReplaceAll(way, ", ", "-"), func(b *testing.B) {
			r := newRig(b)
			c := r.as(b, "Alice", "")
			ways[way].give(b, r, alice, allowed("*", "*"))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.dir.Identify(b.Context(), c.caller); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
