package policy

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const principalsText = `{ "Version":"2012-10-17",
  "Statement": [
    {"Effect":"Allow", "Principal": {"AWS" : [ "arn:aws:iam::111122223333:role/Jwt\u0050roducer" ,"111122223333"],
       "Service":"logs.amazonaws.com"},
     "Action":"kms:*","Resource":"*"},
    {"Effect":"Allow","Principal":"*","Action":"kms:Sign","Resource":"*"},
    {"Effect":"Deny","NotPrincipal":{"AWS":"AIDAALICE00000000001"},"Action":"kms:Sign","Resource":"*"},
    {"Effect":"Allow","Principal":{"AWS":["111122223333","*"]},"Action":"kms:Sign","Resource":"*"}
  ]}
`

func TestPrincipals(t *testing.T) {
	d, err := ParseKeyPolicy(principalsText)
	require.NoError(t, err)
	assert.Equal(t, principalsText, d.Text())
	assert.Equal(t, []string{"arn:aws:iam::111122223333:role/JwtProducer", "111122223333", "*", "AIDAALICE00000000001"}, d.Principals())
}

func TestPrincipalsOfIdentityPolicy(t *testing.T) {
	d, err := ParseIdentityPolicy(`{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}`)
	require.NoError(t, err)
	assert.Empty(t, d.Principals())
	assert.Equal(t, d.Text(), d.MapPrincipals(func(string) string { return "x" }))
}

func TestMapPrincipals(t *testing.T) {
	d, err := ParseKeyPolicy(principalsText)
	require.NoError(t, err)
	var asked []string
	got := d.MapPrincipals(func(value string) string {
		asked = append(asked, value)
		switch value {
		case "arn:aws:iam::111122223333:role/JwtProducer":
			return "AROAPRODUCER00000001"
		case "AIDAALICE00000000001":
			return `arn:aws:iam::111122223333:user/"team"/Alice`
		}
		return value
	})
	assert.Equal(t, []string{"arn:aws:iam::111122223333:role/JwtProducer", "111122223333", "AIDAALICE00000000001", "111122223333", "*"}, asked,
		"each value, and not the plain string")
	want := strings.Replace(principalsText, `"arn:aws:iam::111122223333:role/Jwt\u0050roducer"`, `"AROAPRODUCER00000001"`, 1)
	want = strings.Replace(want, `"AIDAALICE00000000001"`, `"arn:aws:iam::111122223333:user/\"team\"/Alice"`, 1)
	assert.Equal(t, want, got)
	assert.Equal(t, principalsText, d.MapPrincipals(func(value string) string { return value }))
}

func TestSyntaxErrorNamesThePlace(t *testing.T) {
	for text, want := range map[string]string{
		"{\n \"Statement\": [\n  {\"Effect\": \"allow\"}]}": `Statement[0].Effect: want "Allow" or "Deny" (line 3, column 14)`,
		"{\n \"Id\": \"é\", \"Name\": 1}":                   `document: unknown element "Name" (line 2, column 13)`,
		"{\n \"Statement\": [}": "document: not valid JSON: " +
			`invalid character '}' looking for beginning of value (line 2, column 16)`,
	} {
		_, err := ParseKeyPolicy(text)
		assert.EqualError(t, err, want)
	}
}

func TestLongestDocument(t *testing.T) {
	text := `{"Id": "", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}}`
	text = strings.Replace(text, `""`, `"`+strings.Repeat("é", MaxCharacters-len(text))+`"`, 1)
	_, err := ParseKeyPolicy(text)
	assert.NoError(t, err, "characters, not bytes")
	_, err = ParseKeyPolicy(text + " ")
	assert.EqualError(t, err, "document: longer than 131072 characters (line 1, column 1)")
}

// TestWrongKind: a key policy taken as an inline policy has no Principal any more, so nothing is decided by it.
func TestWrongKind(t *testing.T) {
	key, err := ParseKeyPolicy(defaultKeyPolicy)
	require.NoError(t, err)
	inline, err := ParseIdentityPolicy(`{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}`)
	require.NoError(t, err)
	r := Request{Principal: callers["producer"], Action: "kms:GenerateMac", Resource: keyARN, Account: "111122223333"}
	require.True(t, Evaluate(r, Policies{Key: key, Identity: []Named{{"x", inline}}}).Allowed)
	for name, p := range map[string]Policies{
		"a key policy as inline policy":   {Key: key, Identity: []Named{{"x", inline}, {"y", key}}},
		"an inline policy as key policy":  {Key: inline, Identity: []Named{{"x", inline}}},
		"a name without a document":       {Key: key, Identity: []Named{{"x", inline}, {"y", nil}}},
		"a key policy as the only policy": {Key: nil, Identity: []Named{{"y", key}}},
	} {
		assert.Equal(t, Decision{Reason: NoIdentityAllow, Statement: -1}, Evaluate(r, p), name)
	}
}

func TestConcurrentUse(t *testing.T) {
	p, r := Policies{Key: tenStatements(t)}, producerRequest()
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			for range 100 {
				assert.True(t, Evaluate(r, p).Allowed)
				assert.Len(t, p.Key.Principals(), 10)
			}
		})
	}
	g.Wait()
}

// FuzzParse: the parser never panics, what it takes is stable, and what it refuses it refuses in few words.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(f, err)
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		require.NoError(f, err)
		for _, section := range archive.Files {
			for line := range strings.Lines(string(section.Data)) {
				if text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "raw key: "); ok {
					f.Add(text)
				} else if i := strings.Index(line, ": {"); i >= 0 {
					f.Add(`{"Version": "2012-10-17", "Statement": ` + strings.TrimSuffix(line[i+2:], "\n") + `}`)
				}
			}
		}
	}
	f.Add(principalsText)
	f.Add(`{"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*", "Condition": {"Bool": {"aws:PrincipalTag/` +
		strings.Repeat("é", 200) + `": "x"}}}}`)
	f.Add(defaultKeyPolicy)
	r := Request{Principal: callers["producer"], Action: "kms:GenerateMac", Resource: keyARN, Account: "111122223333",
		Context: keys{"aws:username": {"a"}, "aws:tagkeys": {"a", "b"}}}
	known := actions()
	f.Fuzz(func(t *testing.T, text string) {
		for kind, parse := range map[Kind]func(string) (*Document, error){KeyPolicy: ParseKeyPolicy, IdentityPolicy: ParseIdentityPolicy} {
			findings := Lint(kind, text, known)
			d, err := parse(text)
			if err != nil {
				var syntax *SyntaxError
				require.ErrorAs(t, err, &syntax)
				assert.Less(t, len(syntax.Reason), 300)
				assert.Less(t, len(syntax.Path), 200)
				assert.Equal(t, []Finding{{syntax.Line, syntax.Path, Error, syntax.Reason}}, findings)
				continue
			}
			for _, finding := range findings {
				assert.Equal(t, Warning, finding.Severity)
			}
			same := d.MapPrincipals(func(value string) string { return value })
			require.Equal(t, text, same)
			again, err := parse(same)
			require.NoError(t, err)
			require.Equal(t, d, again)

			account, err := parse(d.MapPrincipals(func(string) string { return "111122223333" }))
			require.NoError(t, err, "a document with other principals")
			for _, value := range account.Principals() {
				assert.Contains(t, []string{"111122223333", "*"}, value)
			}
			Evaluate(r, Policies{Key: d})
			Evaluate(r, Policies{Identity: []Named{{"x", d}}})
		}
	})
}

// How long the parts of names may be that a document has: AWS's limits, in characters.
func TestLengthsOfNames(t *testing.T) {
	const most = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "%s"}, "Action": "kms:*", "Resource": "*",
		"Condition": {"StringEquals": {"%s": "${%s}"}}}}`
	const arn, key = "arn:aws:iam::111122223333:role/r", "aws:username"
	name, path := strings.Repeat("n", 64), strings.Repeat("p", 510)
	tag := "aws:PrincipalTag/" + strings.Repeat("ü", 256)
	for _, c := range []struct {
		principal, key, variable string
		refused                  bool
	}{
		{"arn:aws:iam::111122223333:user/" + name, tag, tag, false},
		{"arn:aws:iam::111122223333:role/" + path + "/" + name, key, "aws:username , 'nobody'", false},
		{"arn:aws:sts::111122223333:assumed-role/" + name + "/" + name, key, key, false},
		{"arn:aws:sts::111122223333:federated-user/" + name, key, key, false},
		{"arn:aws:iam::111122223333:role/" + name + "n", key, key, true},
		{"arn:aws:iam::111122223333:role/" + path + "p/" + name, key, key, true},
		{"arn:aws:iam::111122223333:role/p//" + name, key, key, false},
		{"arn:aws:iam::111122223333:role//" + name, key, key, true},
		{"arn:aws:iam::111122223333:role/", key, key, true},
		{"arn:aws:sts::111122223333:assumed-role/" + name + "n/" + name, key, key, true},
		{"arn:aws:sts::111122223333:assumed-role/" + name + "/" + name + "n", key, key, true},
		{"arn:aws:sts::111122223333:federated-user/" + name + "n", key, key, true},
		{arn, tag + "ü", key, true},
		{arn, key, tag + "ü", true},
		{arn, "aws:PrincipalTag/", key, true},
		{arn, strings.Repeat("a", 65) + ":b", key, true},
	} {
		_, err := ParseKeyPolicy(fmt.Sprintf(most, c.principal, c.key, c.variable))
		if c.refused {
			assert.Error(t, err, "%v", c)
		} else {
			assert.NoError(t, err, "%v", c)
		}
	}
}
