package policy

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// principals is the Principal or NotPrincipal of a statement, compiled.
type principals struct {
	not      bool
	everyone bool     // "*"
	accounts []string // by 12 digits or the ARN of the root
	ids      []string // AIDA..., AROA..., AROA...:SESSION, see SplitID
	arns     []string // users, roles, sessions

	federated []string // identity providers, of a trust policy
}

// reach says how a statement names the caller.
type reach int

const (
	notNamed  reach = iota
	byAccount       // through the account: an Allow only lets that account's identity policies decide
	byRole          // a session through its role, or through being somebody: an Allow gives what its session policies allow as well
	directly
)

// names tells how the statement reaches the caller. A Deny does not care how.
func (p *principals) names(who *Principal) reach {
	named := p.listed(who)
	if !p.not {
		return named
	}
	// To be spared by a NotPrincipal, an identity and its account must both be listed: the account stands for all that
	// is in it.
	spared := p.everyone || slices.Contains(p.accounts, who.Account) && (who.Root || named == directly)
	if who.isSession() { // and so do a session and its role
		spared = spared && (p.everyone || p.namesRole(who))
	}
	if spared {
		return notNamed
	}
	return directly
}

func (p *principals) namesRole(who *Principal) bool {
	return who.isSession() && (slices.Contains(p.ids, who.RoleID) || slices.Contains(p.arns, who.RoleARN))
}

func (p *principals) listed(who *Principal) reach {
	switch {
	case slices.Contains(p.ids, who.ID), slices.Contains(p.arns, who.ARN):
		return directly
	case p.everyone && !who.isSession():
		return directly
	case p.everyone, p.namesRole(who):
		return byRole
	case slices.Contains(p.accounts, who.Account):
		return byAccount
	}
	return notNamed
}

func (c *compiler) principals(n *node, path string, s *statement) error {
	if c.kind == IdentityPolicy {
		if n.member("Principal") != nil || n.member("NotPrincipal") != nil {
			return c.errorf(n, path, "a Principal in an identity policy")
		}
		return nil
	}
	value, path, not, err := c.either(n, path, "Principal", "NotPrincipal")
	if err != nil {
		return err
	}
	if not && s.allow {
		return c.errorf(value, path, `want Principal with Effect "Allow"`)
	}
	s.principals.not = not
	if value.kind == aString && value.text == "*" {
		s.principals.everyone = true
		return nil
	}
	if value.kind == aString {
		return c.invalidPrincipal(value, path, "AWS")
	}
	kinds := []string{"AWS", "Service"}
	if c.kind == TrustPolicy {
		kinds = append(kinds, "Federated")
	}
	if err := c.object(value, path, kinds...); err != nil {
		return err
	}
	if len(value.items) == 0 {
		return c.errorf(value, path, "an empty object")
	}
	if list := value.member("AWS"); list != nil {
		err := c.each(list, path+".AWS", func(item *node, path string) error {
			if !s.principals.add(item.text) {
				return c.invalidPrincipal(item, path, "AWS")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for kind, form := range otherPrincipals { // the services of AWS never call here
		list := value.member(kind)
		if list == nil {
			continue
		}
		err := c.each(list, path+"."+kind, func(item *node, path string) error {
			if len(item.text) > maxOtherPrincipal || !form.MatchString(item.text) {
				return c.invalidPrincipal(item, path, kind)
			}
			if kind == "Federated" {
				s.principals.federated = append(s.principals.federated, item.text)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *compiler) invalidPrincipal(n *node, path, kind string) error {
	line, column := position(c.text, n.start)
	return &SyntaxError{Path: path, Reason: invalidPrincipal(n.text), Line: line, Column: column, InvalidPrincipal: true,
		Principal: kindAndValue(kind, n.text)}
}

// kindAndValue is a principal as AWS IAM names an invalid one.
func kindAndValue(kind, value string) string {
	return `"` + kind + `":"` + beginning(value, maxPrincipalBytes) + `"`
}

// invalidPrincipal names a principal in full, as far as its name is one that could be found.
func invalidPrincipal(value string) string {
	return "invalid principal " + excerptOf(value, maxPrincipalBytes)
}

const maxPrincipalBytes = 160

// The forms of a principal. Groups, organizations and wildcards inside an ARN are none. A unique id is what the text of
// a saved policy shows for an identity that is gone, and with an account before it what is kept of one of another account. How long the
// parts of an ARN may be is counted, see isARNPrincipal: expressions that count so far are large, and every process pays for them.
var (
	accountPrincipal = regexp.MustCompile(`^(?:arn:aws(?:-[a-z]+)*:iam::)?([0-9]{12})(:root)?$`)
	idPrincipal      = regexp.MustCompile(`^(?:([0-9]{12})/)?(AIDA[0-9A-Z]{12,124}|AROA[0-9A-Z]{12,124}(?::([\w+=,.@-]+))?)$`)
	arnPrincipal     = regexp.MustCompile(`^arn:aws(?:-[a-z]+)*:(?:iam::[0-9]{12}:(?:user|role)/(?:([!-)+->@-~]+)/)?` + principalName +
		`|sts::[0-9]{12}:(?:assumed-role/` + principalName + `/` + principalName + `|federated-user/` + principalName + `))$`)

	otherPrincipals = map[string]*regexp.Regexp{
		"Service": regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com(\.cn)?$`),
		"Federated": regexp.MustCompile(`^(?:arn:aws(?:-[a-z]+)*:iam::[0-9]{12}:(?:oidc|saml)-provider/[\w+=,.@:/~-]+` +
			`|[a-z0-9-]+(\.[a-z0-9-]+)+)$`),
	}
)

// maxOtherPrincipal is how many bytes the name of a service or an identity provider may have.
const maxOtherPrincipal = 512

const principalName = `([\w+=,.@-]+)`

// The most characters of a path without the first and last slash, and of a name.
const maxPrincipalPath, maxPrincipalName = 510, 64

// isARNPrincipal reports whether a text has the form of the ARN of a user, a role or a session.
func isARNPrincipal(text string) bool {
	m := arnPrincipal.FindStringSubmatch(text)
	if m == nil || len(m[1]) > maxPrincipalPath {
		return false
	}
	return !slices.ContainsFunc(m[2:], func(name string) bool { return len(name) > maxPrincipalName })
}

func (p *principals) add(value string) bool {
	if value == "*" {
		p.everyone = true
		return true
	}
	if m := accountPrincipal.FindStringSubmatch(value); m != nil && strings.HasPrefix(value, "arn:") == (m[2] != "") {
		p.accounts = append(p.accounts, m[1])
		return true
	}
	switch m := idPrincipal.FindStringSubmatch(value); {
	case m != nil && len(m[3]) <= maxPrincipalName:
		p.ids = append(p.ids, m[2]) // which nobody else has, in whatever account
	case isARNPrincipal(value):
		p.arns = append(p.arns, value)
	default:
		return false
	}
	return true
}

// SplitID takes a unique id apart as key policies keep it: with the account before it and a slash where that is not the key's.
func SplitID(text, keyAccount string) (account, id string) {
	if m := idPrincipal.FindStringSubmatch(text); m != nil && m[1] != "" {
		return m[1], m[2]
	}
	return keyAccount, text
}

// span is one value of a principal in the text of a document.
type span struct {
	value      string
	start, end int  // of the JSON string with its quotes
	plain      bool // the string "*" in the place of the object
	path       string
}

func principalSpans(statement *node, path string) []span {
	var spans []span
	for _, name := range []string{"Principal", "NotPrincipal"} {
		n := statement.member(name)
		if n == nil {
			continue
		}
		if n.kind == aString {
			spans = append(spans, span{n.text, n.start, n.end, true, path + "." + name})
		} else if aws := n.member("AWS"); aws != nil {
			for i, item := range aws.list() {
				spans = append(spans, span{item.text, item.start, item.end, false, itemPath(aws, path+"."+name+".AWS", i)})
			}
		}
	}
	return spans
}

// Principals returns the distinct values of Principal.AWS and NotPrincipal.AWS as written, in the order of the
// document: ARNs, unique ids, 12-digit accounts and "*". A Principal that is the plain string "*" counts as well.
func (d *Document) Principals() []string {
	var values []string
	seen := map[string]bool{}
	for _, s := range d.spans {
		if !seen[s.value] {
			seen[s.value] = true
			values = append(values, s.value)
		}
	}
	return values
}

// PrincipalError is the refusal of one of Principals that the caller found to be invalid. It names the first place of it.
func (d *Document) PrincipalError(value, reason string) *SyntaxError {
	i := slices.IndexFunc(d.spans, func(s span) bool { return s.value == value })
	if i < 0 {
		return &SyntaxError{Reason: reason, Line: 1, Column: 1, InvalidPrincipal: true, Principal: kindAndValue("AWS", value)}
	}
	line, column := position(d.text, d.spans[i].start)
	return &SyntaxError{Path: d.spans[i].path, Reason: invalidPrincipal(value) + ": " + reason, Line: line, Column: column,
		InvalidPrincipal: true, Principal: kindAndValue("AWS", value)}
}

// MapPrincipals returns the text with each value of Principal.AWS and NotPrincipal.AWS replaced by what f makes of it.
// All other bytes stay as they are, and so does a value that f does not change. A Principal that is the plain string
// "*" is not given to f.
func (d *Document) MapPrincipals(f func(string) string) string {
	var b strings.Builder
	done := 0
	for _, s := range d.spans {
		if s.plain {
			continue
		}
		if value := f(s.value); value != s.value {
			b.WriteString(d.text[done:s.start])
			quoted, _ := json.Marshal(value) // a string can always be marshalled
			b.Write(quoted)
			done = s.end
		}
	}
	b.WriteString(d.text[done:])
	return b.String()
}
