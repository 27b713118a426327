package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// life is a random set of policies and a request. Its words are few, so that statements often apply.
type life struct {
	*rand.Rand
}

func pick[T any](l life, list ...T) T { return list[l.IntN(len(list))] }

func (l life) some(f func() any) any {
	if l.IntN(2) == 0 {
		return f()
	}
	list := []any{}
	for range 1 + l.IntN(3) {
		list = append(list, f())
	}
	return list
}

func (l life) action() any {
	return pick(l, "kms:*", "*", "kms:GenerateMac", "kms:VerifyMac", "kms:Gen*", "kms:*Mac", "kms:??????Mac", "kms:RetireGrant", "s3:*")
}

func (l life) principal() any {
	if l.IntN(6) == 0 {
		return "*"
	}
	return map[string]any{"AWS": l.some(func() any {
		return pick(l, "111122223333", "arn:aws:iam::444455556666:root", callers["producer"].ARN,
			callers["alice"].ID, callers["partner"].ARN, "*")
	})}
}

func (l life) resource() any {
	return pick(l, "*", keyARN, "arn:aws:kms:*:111122223333:key/*", "arn:aws:kms:*:*:alias/${aws:username}", "arn:aws:kms:us-????-1:*:*1234*")
}

func (l life) condition() map[string]any {
	prefix, suffix := pick(l, "", "", "ForAnyValue:", "ForAllValues:"), pick(l, "", "", "IfExists")
	name := pick(l, "StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase", "NumericLessThan",
		"NumericNotEquals", "Bool", "IpAddress", "NotIpAddress", "ArnLike", "ArnNotEquals", "DateGreaterThan", "Null")
	if name == "Null" {
		prefix, suffix = "", ""
	}
	value := l.some(func() any {
		switch {
		case strings.HasPrefix(name, "String"):
			return pick(l, "a", "A", "*", "?b", "1", "${aws:username}", "${aws:tagkeys, 'a'}")
		case strings.HasPrefix(name, "Numeric"):
			return pick(l, "1", "10", "-3.5")
		case name == "Bool", name == "Null":
			return pick(l, "true", "false")
		case strings.HasSuffix(name, "IpAddress"):
			return pick(l, "10.0.0.0/8", "2001:db8::/32")
		case strings.HasPrefix(name, "Arn"):
			return pick(l, "*", "arn:aws:iam::*:role/*", callers["alice"].ARN)
		}
		return pick(l, "2026-01-01", "1782907200")
	})
	return map[string]any{prefix + name + suffix: map[string]any{l.key(): value}}
}

func (l life) key() string {
	return pick(l, "aws:username", "aws:TagKeys", "kms:MacAlgorithm", "aws:SourceIp", "aws:PrincipalArn", "aws:CurrentTime")
}

func (l life) statement(kind Kind, effect string) map[string]any {
	s := map[string]any{"Effect": effect}
	s[pick(l, "Action", "Action", "Action", "NotAction")] = l.some(l.action)
	if kind == KeyPolicy {
		s["Resource"] = "*"
		name := "Principal"
		if effect == "Deny" {
			name = pick(l, "Principal", "NotPrincipal")
		}
		s[name] = l.principal()
	} else {
		s[pick(l, "Resource", "Resource", "NotResource")] = l.some(l.resource)
	}
	if l.IntN(2) == 0 {
		s["Condition"] = l.condition()
	}
	return s
}

func (l life) statements(kind Kind) []any {
	var list []any
	for range 1 + l.IntN(4) {
		list = append(list, l.statement(kind, pick(l, "Allow", "Allow", "Deny")))
	}
	return list
}

func (l life) request() Request {
	context := keys{}
	for range l.IntN(4) {
		var values []string
		for range l.IntN(3) {
			values = append(values,
				pick(l, "a", "A", "bb", "1", "7", "true", "10.1.1.1", "2001:db8::1", "2026-07-01T00:00:00Z", callers["alice"].ARN, "\xff"))
		}
		context[strings.ToLower(l.key())] = values
	}
	names := []string{"producer", "alice", "root", "partner", "partnerroot", "nobody"}
	return Request{
		Principal: callers[pick(l, names...)],
		Action:    pick(l, "kms:GenerateMac", "kms:VerifyMac", "kms:RetireGrant"),
		Resource:  pick(l, keyARN, "*", "arn:aws:kms:us-east-1:111122223333:alias/a"),
		Account:   "111122223333",
		Context:   context,
	}
}

func compiled(t *testing.T, kind Kind, statements []any) *Document {
	text, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	require.NoError(t, err)
	d, err := parse(kind, string(text))
	require.NoError(t, err, "%s", text)
	return d
}

// FuzzEvaluate holds what is true of every policy and every request.
func FuzzEvaluate(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		l := life{rand.New(rand.NewPCG(seed1, seed2))}
		key, inline, r := l.statements(KeyPolicy), l.statements(IdentityPolicy), l.request()
		decide := func(key, inline []any) Decision {
			p := Policies{Key: compiled(t, KeyPolicy, key)}
			if len(inline) > 0 {
				p.Identity = []Named{{"inline", compiled(t, IdentityPolicy, inline)}}
			}
			return Evaluate(r, p)
		}
		before := decide(key, inline)
		what := func() string {
			text, _ := json.Marshal([]any{key, inline, r})
			return fmt.Sprintf("%s: %+v", text, before)
		}

		shuffle := func(list []any) []any {
			list = append([]any{}, list...)
			l.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			return list
		}
		shuffled := decide(shuffle(key), shuffle(inline))
		assert.Equal(t, [3]any{before.Allowed, before.Reason, before.Otherwise}, [3]any{shuffled.Allowed, shuffled.Reason, shuffled.Otherwise},
			"the order of statements counts: %s", what())

		for kind, lists := range [][2][]any{
			{append(shuffle(key), l.statement(KeyPolicy, "Deny")), inline},
			{key, append(shuffle(inline), l.statement(IdentityPolicy, "Deny"))},
		} {
			if decide(lists[0], lists[1]).Allowed {
				assert.True(t, before.Allowed, "a Deny in policy %d widens: %s", kind, what())
			}
		}
		wider := decide(append(shuffle(key), l.statement(KeyPolicy, "Allow")), inline)
		assert.True(t, wider.Allowed || !before.Allowed, "an Allow narrows: %s", what())

		stranger := decide(key, nil)
		if !stranger.Allowed && stranger.Reason != DeniedByKeyPolicy && !r.Principal.Root {
			assert.Equal(t, NoIdentityAllow, stranger.Reason, "the key policy shows: %s", what())
		}
		if before.Reason != DeniedByKeyPolicy && before.Reason != DeniedByIdentityPolicy {
			assert.False(t, before.Otherwise, what())
		}
	})
}

// FuzzMatch compares with the regular expressions of the standard library.
func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"a*b?c", "axxbyc"}, {"*", ""}, {"**?", "é"}, {"*ab*abc", "xababababc"}, {"?", "\xff"}, {"a?c", "a\nc"},
		{"*??ab", "€ab"}} {
		f.Add(s[0], s[1])
	}
	l := life{rand.New(rand.NewPCG(1, 2))}
	for range 500 {
		f.Add(l.word("ab**??€"), l.word("ab€"))
	}
	f.Fuzz(func(t *testing.T, text, s string) {
		if !utf8.ValidString(text) {
			t.Skip("a document has valid UTF-8")
		}
		expr := regexp.QuoteMeta(text)
		expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `.*`), `\?`, `.`)
		want := regexp.MustCompile(`(?s)^` + expr + `$`).MatchString(s)
		p, left := newPattern(text), 1<<30
		assert.Equal(t, verdictOf(want), p.match(s, false, &left), "%q %q", text, s)
		assert.LessOrEqual(t, 1<<30-left, 2*(len(text)+1)*(len(s)+2), "steps for %q %q", text, s)
	})
}

func (l life) word(letters string) string {
	var b strings.Builder
	for range l.IntN(9) {
		b.WriteRune(pick(l, []rune(letters)...))
	}
	return b.String()
}

// TestSteps: a document with the worst patterns, against values of any length, costs a number of steps that its length
// bounds; one of them is of the largest size. Steps are counted, not timed.
func TestSteps(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	r := Request{Principal: callers["producer"], Action: "kms:" + long, Resource: "arn:aws:kms:::" + long, Account: "111122223333",
		Context: keys{"aws:useragent": {long}, "aws:tagkeys": strings.Split(strings.Repeat("a ", 1<<18), " "),
			"aws:principalarn": {"arn:aws:iam:::" + long}}}
	pad := strings.Repeat("a", 60)
	for name, statement := range map[string]string{
		"action":     `"NotAction": ["kms:*` + pad + `b"], "Resource": "*"`,
		"resource":   `"Action": "*", "Resource": ["arn:aws:kms:::*` + pad + `b"]`,
		"string":     `"Action": "*", "Resource": "*", "Condition": {"StringNotLike": {"aws:UserAgent": ["*` + pad + `b"]}}`,
		"ignorecase": `"Action": "*", "Resource": "*", "Condition": {"StringNotEqualsIgnoreCase": {"aws:UserAgent": ["${aws:UserAgent}b"]}}`,
		"variable":   `"Action": "*", "Resource": "*", "Condition": {"StringNotLike": {"aws:UserAgent": ["*${aws:UserAgent}b"]}}`,
		"many":       `"Action": "*", "Resource": "*", "Condition": {"ForAllValues:StringNotLike": {"aws:TagKeys": ["*b", "*?b", "?*b"]}}`,
		"any":        `"Action": "*", "Resource": "*", "Condition": {"ForAnyValue:StringLike": {"aws:TagKeys": ["*b", "*?b", "?*b"]}}`,
		"arn":        `"Action": "*", "Resource": "*", "Condition": {"ArnNotLike": {"aws:PrincipalArn": ["arn:aws:iam:::*` + pad + `b"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			statement = `{"Effect": "Deny", ` + statement + `}`
			size := MaxCharacters / 32
			if name == "string" {
				size = MaxCharacters
			}
			n := (size - 64) / (len(statement) + 1)
			text := `{"Version": "2012-10-17", "Statement": [` + strings.Repeat(statement+",", n-1) + statement + `]}`
			d, err := ParseIdentityPolicy(text)
			require.NoError(t, err)
			e := evaluation{request: r}
			for i := range d.statements { // Evaluate would stop at the first one that denies
				assert.True(t, d.statements[i].applies(&e), "what costs too much denies")
			}
			assert.Greater(t, e.spent, stepsPerByte*len(text)/2, "the patterns are harmless")
			assert.LessOrEqual(t, e.spent, (stepsPerByte+1)*len(text))
		})
	}
}
