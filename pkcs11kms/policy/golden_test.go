package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The cases are in testdata; testdata/README.md says how to read them.

const (
	assumedARN       = "arn:aws:iam::111122223333:role/Assumed"
	keyARN           = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	defaultKeyPolicy = `{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:aws:iam::111122223333:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`
)

var callers = map[string]Principal{
	"producer":    {Account: "111122223333", ARN: "arn:aws:iam::111122223333:role/JwtProducer", ID: "AROAPRODUCER00000001"},
	"alice":       {Account: "111122223333", ARN: "arn:aws:iam::111122223333:user/team/Alice", ID: "AIDAALICE00000000001"},
	"root":        {Account: "111122223333", ARN: "arn:aws:iam::111122223333:root", ID: "111122223333", Root: true},
	"partner":     {Account: "444455556666", ARN: "arn:aws:iam::444455556666:role/Partner", ID: "AROAPARTNER000000001"},
	"partnerroot": {Account: "444455556666", ARN: "arn:aws:iam::444455556666:root", ID: "444455556666", Root: true},
	"nobody":      {},

	"job": {Account: "111122223333", ARN: "arn:aws:sts::111122223333:assumed-role/JwtProducer/job", ID: "AROAPRODUCER00000001:job",
		RoleARN: "arn:aws:iam::111122223333:role/JwtProducer", RoleID: "AROAPRODUCER00000001"},
	"partnerjob": {Account: "444455556666", ARN: "arn:aws:sts::444455556666:assumed-role/Partner/job", ID: "AROAPARTNER000000001:job",
		RoleARN: "arn:aws:iam::444455556666:role/Partner", RoleID: "AROAPARTNER000000001"},

	"pod":        {Federated: "arn:aws:iam::111122223333:oidc-provider/oidc.example.org/id/1"},
	"halfpod":    {Federated: "arn:aws:iam::111122223333:oidc-provider/oidc.example.org/id/1", Account: "111122223333"},
	"foreignpod": {Federated: "arn:aws:iam::444455556666:oidc-provider/oidc.example.org/id/1"},

	"withoutaccount": {ARN: "arn:aws:iam::111122223333:role/JwtProducer", ID: "AROAPRODUCER00000001"},
	"withoutarn":     {Account: "111122223333", ID: "AROAPRODUCER00000001"},
	"withoutid":      {Account: "111122223333", ARN: "arn:aws:iam::111122223333:role/JwtProducer"},
}

// keys is a Context made of a map of lower-case names.
type keys map[string][]string

func (k keys) Values(name string) ([]string, bool) {
	values, ok := k[name]
	return values, ok
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	decided, refused := 0, 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		require.NoError(t, err)
		names := map[string]bool{}
		for _, section := range archive.Files {
			require.False(t, names[section.Name], "%s: two cases %q", file, section.Name)
			names[section.Name] = true
			c := parseCase(t, file+": "+section.Name, string(section.Data))
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+section.Name, c.run)
			if strings.HasPrefix(c.want, "refused") {
				refused++
			} else {
				decided++
			}
		}
	}
	assert.GreaterOrEqual(t, decided, 300, "cases with a decision")
	assert.GreaterOrEqual(t, refused, 130, "refused documents")
}

// goldenCase is one section of a file.
type goldenCase struct {
	rule     string
	version  string
	key      []string // statements
	rawKey   *string
	rawTrust *string
	noKey    bool
	inline   []inlinePolicy
	session  []inlinePolicy
	limited  bool // by session policies, be it none
	trust    []string
	grants   []Grant
	request  Request
	want     string
	byKey    string // told, untold, or empty: it is not looked at
}

type inlinePolicy struct {
	name       string
	statements []string
	raw        *string
}

func parseCase(t *testing.T, where, text string) *goldenCase {
	context := keys{}
	c := &goldenCase{version: "2012-10-17", request: Request{
		Principal: callers["producer"], Action: "kms:GenerateMac", Resource: keyARN, Account: "111122223333", Context: context,
	}}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "#":
			c.rule += rest
		case "key:":
			c.key = append(c.key, rest)
		case "if:":
			c.key = append(c.key, `{"Condition": `+rest+`}`)
		case "raw":
			c.raw(t, where, rest)
		case "no":
			c.noKey = true
		case "inline":
			addInline(&c.inline, rest)
		case "session":
			addInline(&c.session, rest)
			c.limited = true
		case "trust:":
			c.trust = append(c.trust, rest)
			c.noKey = true
			if c.request.Action == "kms:GenerateMac" {
				c.request.Action, c.request.Resource = "sts:AssumeRole", assumedARN
			}
		case "managed":
			addInline(&c.inline, rest)
		case "group":
			group, policy, _ := strings.Cut(rest, " ")
			addNamed(&c.inline, "group/"+group+": ", policy)
		case "version:":
			c.version = rest
		case "as:":
			who, ok := callers[rest]
			require.True(t, ok, where)
			c.request.Principal = who
		case "owner:":
			c.request.Account = rest
		case "told", "untold":
			c.byKey = word
		case "action:":
			c.request.Action = rest
		case "resource:":
			c.request.Resource = rest
		case "grant:":
			c.grants = append(c.grants, grantOf(t, where, rest))
		case "child:":
			operations, source, _ := strings.Cut(rest, " from ")
			c.request.Child = &Child{strings.Fields(operations), source}
		case "with":
			name, values := contextValues(rest)
			context[strings.ToLower(name)] = values
		case "=>":
			c.want = rest
		default:
			require.Fail(t, "unknown line", "%s: %q", where, line)
		}
	}
	require.NotEmpty(t, c.rule, "%s names no rule", where)
	require.NotEmpty(t, c.want, "%s expects nothing", where)
	return c
}

func (c *goldenCase) raw(t *testing.T, where, line string) {
	kind, text, _ := strings.Cut(line, ":")
	text = strings.TrimPrefix(text, " ")
	switch kind {
	case "key":
		c.rawKey = &text
	case "inline":
		c.inline = append(c.inline, inlinePolicy{name: "raw", raw: &text})
	case "session":
		c.session, c.limited = append(c.session, inlinePolicy{name: "raw", raw: &text}), true
	case "trust":
		c.rawTrust, c.noKey = &text, true
	default:
		require.Fail(t, "unknown line", "%s: %q", where, line)
	}
}

// addInline adds a statement; "inline NAME" without one is a list of policies that is empty.
func addInline(list *[]inlinePolicy, line string) { addNamed(list, "", line) }

// addNamed is addInline of a policy of something else, which its name begins with.
func addNamed(list *[]inlinePolicy, of, line string) {
	name, statement, some := strings.Cut(line, ": ")
	if !some {
		return
	}
	name = of + name
	if n := len(*list); n == 0 || (*list)[n-1].name != name {
		*list = append(*list, inlinePolicy{name: name})
	}
	last := &(*list)[len(*list)-1]
	last.statements = append(last.statements, statement)
}

// grantOf reads "producer GenerateMac VerifyMac from ARN".
func grantOf(t *testing.T, where, line string) Grant {
	line, source, _ := strings.Cut(line, " from ")
	words := strings.Fields(line)
	who, ok := callers[words[0]]
	require.True(t, ok, where)
	return Grant{Account: who.Account, Grantee: who.ID, Operations: words[1:], SourceARN: source}
}

// contextValues reads "NAME = a | b", "NAME", "NAME = x * 5000", "NAME = invalid utf-8".
func contextValues(s string) (string, []string) {
	name, list, some := strings.Cut(s, " =")
	if !some {
		return name, []string{}
	}
	if list = strings.TrimPrefix(list, " "); list == "invalid utf-8" {
		return name, []string{"\xff"}
	}
	if text, times, ok := strings.Cut(list, " * "); ok {
		n, _ := strconv.Atoi(times)
		return name, []string{strings.Repeat(text, n)}
	}
	return name, strings.Split(list, " | ")
}

func (c *goldenCase) run(t *testing.T) {
	p, err := c.policies(t)
	if rest, ok := strings.CutPrefix(c.want, "refused "); ok {
		var syntax *SyntaxError
		require.ErrorAs(t, err, &syntax)
		path := syntax.Path
		if path == "" {
			path = "document"
		}
		assert.True(t, strings.HasPrefix(path+": "+syntax.Reason, rest), "%s\nwant: %s\n got: %v", c.rule, rest, err)
		assert.Equal(t, strings.HasPrefix(syntax.Reason, "invalid principal"), syntax.InvalidPrincipal)
		return
	}
	require.NoError(t, err)
	d := Evaluate(c.request, p)
	assert.Equal(t, c.want, describe(d), c.rule)
	if c.byKey != "" {
		assert.Equal(t, c.byKey == "told", d.ByKey, c.rule)
	}
}

func (c *goldenCase) policies(t *testing.T) (Policies, error) {
	p := Policies{Grants: c.grants, Limited: c.limited}
	text := defaultKeyPolicy
	switch {
	case c.rawKey != nil:
		text = *c.rawKey
	case c.key != nil:
		text = c.document(t, c.key, map[string]any{
			"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*",
			"Principal": map[string]any{"AWS": "arn:aws:iam::111122223333:role/JwtProducer"},
		})
	}
	var errs []error
	if !c.noKey {
		key, err := ParseKeyPolicy(text)
		p.Key, errs = key, append(errs, err)
	}
	if c.trust != nil || c.rawTrust != nil {
		if text = ""; c.rawTrust != nil {
			text = *c.rawTrust
		} else {
			text = c.document(t, c.trust, map[string]any{"Effect": "Allow", "Action": "sts:AssumeRole",
				"Principal": map[string]any{"AWS": "arn:aws:iam::111122223333:role/JwtProducer"}})
		}
		trust, err := ParseTrustPolicy(text)
		p.Trust, errs = trust, append(errs, err)
	}
	usual := "kms:GenerateMac"
	if p.Trust != nil {
		usual = "sts:AssumeRole"
	}
	named := func(list []inlinePolicy) (all []Named) {
		for _, inline := range list {
			if inline.raw != nil {
				text = *inline.raw
			} else {
				text = c.document(t, inline.statements, map[string]any{"Effect": "Allow", "Action": usual, "Resource": "*"})
			}
			d, err := ParseIdentityPolicy(text)
			all, errs = append(all, Named{inline.name, d}), append(errs, err)
		}
		return all
	}
	p.Identity, p.Session = named(c.inline), named(c.session)
	return p, errors.Join(errs...)
}

// document puts statements together, each with the usual members that it does not name.
func (c *goldenCase) document(t *testing.T, statements []string, usual map[string]any) string {
	doc := map[string]any{"Version": c.version}
	if c.version == "none" {
		delete(doc, "Version")
	}
	var list []any
	for _, text := range statements {
		var s map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &s), text)
		for name, value := range usual {
			_, given := s[name]
			_, not := s["Not"+name]
			if !given && !not {
				s[name] = value
			}
		}
		list = append(list, s)
	}
	doc["Statement"] = list
	text, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(text)
}

// describe writes a decision as the cases do.
func describe(d Decision) string {
	s := "denied "
	if d.Allowed {
		s = "allowed "
	}
	s += d.Reason.String()
	if d.Statement >= 0 {
		where := "key"
		switch {
		case d.Reason == DeniedBySessionPolicy:
			where = "session " + d.Policy
		case d.Policy != "":
			where = "inline " + d.Policy
		}
		s += fmt.Sprintf(" %s[%d]", where, d.Statement)
	}
	if d.Sid != "" {
		s += fmt.Sprintf(" %q", d.Sid)
	}
	if d.Otherwise {
		s += " otherwise"
	}
	return s
}
