package policy

import "fmt"

// MaxCharacters is the longest document that is read: the constraint of the API model on Policy, in characters. The
// quota on a stored key policy (32,768 bytes) is the caller's to check.
const MaxCharacters = 131072

// Kind tells the kinds of documents apart.
type Kind int

const (
	KeyPolicy      Kind = iota // resource-based: has a Principal; its Resource "*" means the key it belongs to
	IdentityPolicy             // an inline policy of a user or a role, or of a session: has no Principal; its Resource is an ARN pattern
	TrustPolicy                // who may assume a role: has a Principal, the actions of AWS STS alone, and no Resource, which is the role
)

// Document is a parsed and compiled policy. It never changes and may be used concurrently.
type Document struct {
	kind       Kind
	text       string
	statements []statement
	spans      []span // the principals in the text
}

// SyntaxError is what every refusal of a document is. Its text never holds more of the document than a short excerpt.
type SyntaxError struct {
	Path   string // "Statement[2].Action", "" for the document itself
	Reason string // lower case, without position
	Line   int    // from 1
	Column int    // from 1, in characters

	// InvalidPrincipal: a principal has none of the forms that a key policy may name. The service has a message of its
	// own for it, the one that also answers for well-formed names of nobody.
	InvalidPrincipal bool
	Principal        string // that one, as JSON has it with its kind: "AWS":"arn:..."; a long one is cut
}

func (e *SyntaxError) Error() string {
	path := e.Path
	if path == "" {
		path = "document"
	}
	return fmt.Sprintf("%s: %s (line %d, column %d)", path, e.Reason, e.Line, e.Column)
}

// ParseKeyPolicy reads a key policy with the checks of PutKeyPolicy that need nothing but the text: every statement has
// an Effect, a Principal (or, with Deny, a NotPrincipal), an Action or NotAction, and the Resource "*". Whether the
// principals exist, and whether the policy locks the caller out, is for the caller to find out (Principals, Evaluate).
// The error is a *SyntaxError.
func ParseKeyPolicy(text string) (*Document, error) { return parse(KeyPolicy, text) }

// ParseTrustPolicy reads the trust policy of a role with the checks of AWS IAM that need nothing but the text: every statement has an
// Effect, a Principal (or, with Deny, a NotPrincipal), an Action of AWS STS, and no Resource. Whether the principals exist is for the
// caller to find out. The error is a *SyntaxError.
func ParseTrustPolicy(text string) (*Document, error) { return parse(TrustPolicy, text) }

// ParseIdentityPolicy reads an IAM inline policy, or a session policy, which has the same grammar: no statement has a Principal, each has
// an Effect, an Action or NotAction, and a Resource or NotResource of ARN patterns. The error is a *SyntaxError.
func ParseIdentityPolicy(text string) (*Document, error) { return parse(IdentityPolicy, text) }

// MayAllow tells whether a statement with the Effect Allow covers an action, such as iam:CreateUser, on whatever resource and under
// whatever conditions.
func (d *Document) MayAllow(action string) bool {
	for i := range d.statements {
		if s := &d.statements[i]; s.allow && s.speaksOf(action) {
			return true
		}
	}
	return false
}

// Text returns the document byte for byte as it was parsed.
func (d *Document) Text() string { return d.text }
