package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// plain is a statement of no more than an effect, a principal and an action.
type plain struct {
	allow  bool
	who    string // of a key policy
	action string
}

func (p plain) covers(action string) bool { return p.action == "kms:*" || p.action == action }

func (p plain) statement(names map[string]string) map[string]any {
	s := map[string]any{"Effect": map[bool]string{false: "Deny", true: "Allow"}[p.allow], "Action": p.action, "Resource": "*"}
	if p.who != "" {
		s["Principal"] = map[string]any{"AWS": names[p.who]}
	}
	return s
}

// draw returns up to n plain statements.
func draw(l life, n int, who ...string) (list []plain) {
	for range l.IntN(n + 1) {
		p := plain{allow: l.IntN(6) > 0, action: pick(l, "kms:GenerateMac", "kms:VerifyMac", "kms:*")}
		if len(who) > 0 {
			p.who = pick(l, who...)
		}
		list = append(list, p)
	}
	return list
}

// any tells whether a statement with an effect covers an action, for one of some principals.
func anyPlain(list []plain, allow bool, action string, who ...string) bool {
	return slices.ContainsFunc(list, func(p plain) bool {
		return p.allow == allow && p.covers(action) && (len(who) == 0 || slices.Contains(who, p.who))
	})
}

// A session's rights are at most those of its role and its session policy together, or what statements and grants give to the session: this
// is the rule itself, written down again, for random policies, grants and sessions of both accounts.
func TestSessionRights(t *testing.T) {
	l := life{rand.New(rand.NewPCG(7, 11))}
	const action = "kms:GenerateMac"
	everyone := []string{"session", "role", "account", "everybody", "other"}
	allowed, limitedBy := 0, 0
	for range 20_000 {
		caller := callers[pick(l, "job", "partnerjob")]
		names := map[string]string{"session": caller.ARN, "role": caller.RoleARN, "account": caller.Account, "everybody": "*",
			"other": "arn:aws:iam::777788889999:role/Other"}
		key, role, session := draw(l, 3, everyone...), draw(l, 2), draw(l, 2)
		limited := l.IntN(3) > 0
		grantee := pick(l, "", "", caller.ID, caller.RoleID, caller.Account, "AROAOTHER00000000001")

		p := Policies{Limited: limited}
		compiledOf := func(kind Kind, list []plain) *Document {
			var statements []any
			for _, s := range list {
				statements = append(statements, s.statement(names))
			}
			return compiled(t, kind, statements)
		}
		if len(key) == 0 {
			key = []plain{{allow: true, who: "other", action: "kms:*"}}
		}
		p.Key = compiledOf(KeyPolicy, key)
		if len(role) > 0 {
			p.Identity = []Named{{"role", compiledOf(IdentityPolicy, role)}}
		}
		if len(session) > 0 {
			p.Session = []Named{{"session", compiledOf(IdentityPolicy, session)}}
		}
		if grantee != "" {
			p.Grants = []Grant{{Account: caller.Account, Grantee: grantee, Operations: []string{"GenerateMac"}}}
		}

		denied := anyPlain(role, false, action) || limited && anyPlain(session, false, action) ||
			anyPlain(key, false, action, everyone[:4]...)
		inSession := !limited || anyPlain(session, true, action)
		byRole := anyPlain(role, true, action)
		var want bool
		if caller.Account == "111122223333" {
			want = anyPlain(key, true, action, "session") ||
				inSession && (anyPlain(key, true, action, "role", "everybody") || anyPlain(key, true, action, "account") && byRole)
		} else {
			want = inSession && byRole && anyPlain(key, true, action, everyone[:4]...)
		}
		want = want || grantee == caller.ID || inSession && (grantee == caller.RoleID || grantee == caller.Account && byRole)
		want = want && !denied

		got := Evaluate(Request{Principal: caller, Action: action, Resource: keyARN, Account: "111122223333"}, p)
		require.Equal(t, want, got.Allowed, "%s\nkey %+v\nrole %+v\nsession %+v, limited %v\ngrant to %q: %+v", caller.ARN, key, role, session,
			limited, grantee, got)
		if got.Allowed {
			allowed++
		}
		if got.Reason == NoSessionAllow {
			limitedBy++
			p.Limited = false
			free := Evaluate(Request{Principal: caller, Action: action, Resource: keyARN, Account: "111122223333"}, p)
			require.True(t, free.Allowed || free.Reason == NoKeyPolicyAllow, "%+v", free)
		}
		if limited && got.Allowed { // taking a limit away takes nothing away
			p.Limited = false
			require.True(t, Evaluate(Request{Principal: caller, Action: action, Resource: keyARN, Account: "111122223333"}, p).Allowed)
		}
	}
	require.Greater(t, allowed, 3000)
	require.Greater(t, limitedBy, 300)
}

// FuzzTrustPolicy: what is taken as a trust policy gives no other right than to assume the role, and is taken again once its principals
// have other names.
func FuzzTrustPolicy(f *testing.F) {
	for _, text := range []string{
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:*"}]}`,
		`{"Statement": {"Effect": "Deny", "NotPrincipal": {"AWS": ["111122223333", "AROAPRODUCER00000001:job"]}, "Action": "sts:A*"}}`,
		`{"Statement": {"Effect": "Allow", "Principal": {"Federated": "oidc.example.org", "Service": "x.amazonaws.com"},
			"Action": "sts:TagSession", "Condition": {"StringLike": {"oidc.example.org/id:sub": "a*", "sts:ExternalId": "${aws:username}"}}}}`,
		`{"Statement": {"Effect": "Allow", "Principal": "*", "Action": ["sts:AssumeRole", "kms:Sign"]}}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseTrustPolicy(text)
		if err != nil {
			return
		}
		for _, caller := range []string{"producer", "job", "partner", "root", "pod"} {
			for _, action := range []string{"kms:GenerateMac", "iam:CreateUser"} {
				got := Evaluate(Request{Principal: callers[caller], Action: action, Resource: assumedARN, Account: "111122223333"},
					Policies{Trust: d})
				require.False(t, got.Allowed, "%s: %s", caller, action)
			}
		}
		ids := d.MapPrincipals(func(name string) string {
			if name == callers["producer"].ARN {
				return callers["producer"].ID
			}
			return name
		})
		_, err = ParseTrustPolicy(ids)
		require.NoError(t, err)
		require.False(t, (&Policies{Key: d}).usable(), "as a key policy")
	})
}
