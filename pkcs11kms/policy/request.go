package policy

// Principal is who asks.
type Principal struct {
	Account string // 12 digits
	ARN     string // arn:aws:iam::111122223333:role/JwtProducer, :user/path/Name, :root
	ID      string // the unique id: AIDA... of a user, AROA... of a role; of root the account id
	Root    bool   // the account's root: has an implicit identity-based allow for everything in its own account

	// A session of a role has an ARN (arn:aws:sts::111122223333:assumed-role/JwtProducer/job) and an id (AROA...:job) of its own. RoleARN
	// and RoleID are then those of its role, whose name in a statement names the session as well; others have none.
	RoleARN, RoleID string

	// Federated is the ARN of the identity provider by which somebody has logged in who is no principal here and has nothing else of the
	// above: a trust policy is all that can allow him something.
	Federated string
}

// isSession tells whether the principal is a session of a role.
func (p *Principal) isSession() bool { return p.RoleID != "" }

// Context answers with the values of a condition key for one request.
type Context interface {
	// Values returns the values of the key with that name, which is given in lower case ("aws:principaltag/team"). ok is
	// false for a key that is not in the request. The slice is not kept and not changed.
	Values(name string) (values []string, ok bool)
}

// Request is one thing that somebody wants to do.
type Request struct {
	Principal Principal // one with an empty field is nobody, and denied
	Action    string    // "kms:GenerateMac"
	Resource  string    // key ARN, alias ARN, or "*" for actions without a resource
	Account   string    // 12 digits: the owner of the resource; for actions without a resource the caller's own account
	Context   Context   // nil: no condition key is in the request
	Child     *Child    // of kms:CreateGrant: the grant to be made; nil: no grant allows to make it
}

// Named is an inline policy of the caller.
type Named struct {
	Name     string
	Document *Document // from ParseIdentityPolicy
}

// Policies are what a request is judged by. With a document of the wrong kind, or without one in a Named, everything is
// denied.
type Policies struct {
	// Key is the key policy, from ParseKeyPolicy. nil: the action has no key policy, because its permission comes from
	// identity policies only (kms:CreateKey, or the alias half of alias operations).
	Key      *Document
	Identity []Named // the caller's inline policies
	Grants   []Grant // on the resource, to whomever
	// Trust is in the place of Key where the resource is a role that the caller wants to assume, from ParseTrustPolicy.
	Trust *Document
	// Limited: the caller is a session that has at most what Session, its session policies, allow: of what its role's policies allow, and
	// of what statements and grants give to its role or account. What they give to the session itself is not limited.
	Limited bool
	Session []Named
}

// resource is the policy of what the request is about, or nil.
func (p *Policies) resource() *Document {
	if p.Trust != nil {
		return p.Trust
	}
	return p.Key
}

// Reason says which rule made a decision.
type Reason int

const (
	NoIdentityAllow         Reason = iota // no identity policy allows it, and the key policy does not allow it directly
	NoKeyPolicyAllow                      // an identity policy allows it, but the key (or trust) policy neither directly nor by delegation
	DeniedByKeyPolicy                     // explicit deny in the key (or trust) policy
	DeniedByIdentityPolicy                // explicit deny in an inline policy of the caller
	AllowedByKeyPolicy                    // the key (or trust) policy allows the caller directly
	AllowedByIdentityPolicy               // an identity policy allows it, and the key policy leaves it to the account, or there is none
	AllowedRoot                           // the caller is the root of an account that the key policy allows, or there is none
	AllowedByGrant                        // no policy allows it, and a grant does
	NoSessionAllow                        // others allow it, and no session policy of the caller does
	DeniedBySessionPolicy                 // explicit deny in a session policy of the caller
)

// String returns the name of the constant.
func (r Reason) String() string {
	names := [...]string{"NoIdentityAllow", "NoKeyPolicyAllow", "DeniedByKeyPolicy", "DeniedByIdentityPolicy",
		"AllowedByKeyPolicy", "AllowedByIdentityPolicy", "AllowedRoot", "AllowedByGrant",
		"NoSessionAllow", "DeniedBySessionPolicy"}
	if r < 0 || int(r) >= len(names) {
		return "Reason(?)"
	}
	return names[r]
}

// Decision is the answer to a request and what it rests on.
type Decision struct {
	Allowed    bool
	Reason     Reason
	Policy     string // name of the inline or session policy that decided; "" when it was the resource's policy or none
	Statement  int    // index of the deciding statement in its document, -1: none
	Sid        string // the Sid of that statement
	ByIdentity bool   // an identity policy allows it, denying statements aside; always so for root
	ByKey      bool   // the key policy or a grant allows it to the caller or leaves it to its account, and the key policy does not deny it
	Otherwise  bool   // only for explicit denies: it would have been allowed without the denying statements
}
