package iam

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// A session of a role is nothing that is stored: what there is to know of it stands in its token, which the client sends with each request
// (sessiontoken.go). Its role is looked up by its unique id each time, so that a session ends with its role.

// sessionClaims are what a session token says. What is added must be absent in older tokens without a change of their meaning.
type sessionClaims struct {
	AccessKeyID    string       `json:"k"`
	Account        string       `json:"a"` // of the role, as RoleID
	RoleID         string       `json:"r"`
	Name           string       `json:"n"`
	Issued         int64        `json:"i"` // seconds since 1970, as Expires
	Expires        int64        `json:"e"`
	SourceIdentity string       `json:"s,omitempty"`
	Policy         string       `json:"p,omitempty"` // the session policy
	Tags           []sessionTag `json:"t,omitempty"`

	Provider string `json:"f,omitempty"` // the ARN of the OIDC provider by whose token it began; empty: it began otherwise

	// Managed are the managed policies of the role's account that are session policies as well: as they are at each call.
	Managed []keystore.Attached `json:"m,omitempty"`
}

// sessionTag is a session tag. No two of a session have keys that differ in case alone.
type sessionTag struct {
	Key        string `json:"k"`
	Value      string `json:"v"`
	Transitive bool   `json:"t,omitempty"` // goes into the sessions that this one begins
}

// session is a session of a role whose token was opened. It is never changed but for what mu guards.
type session struct {
	sessionClaims
	tags     []keystore.Tag
	policies []policy.Named // the session policy, or nothing; see sessionPolicies
	all      atomic.Pointer[composed]
	caller   Caller
	roleARN  string
	roleName string

	sealed tokenKeyOf // by what the token was opened
	secret [32]byte   // what the secret access key is made of

	mu      sync.Mutex
	signing map[scope]sigv4.Key // at most maxScopes
}

// limited tells whether session policies bound the rights of the session.
func (s *session) limited() bool { return s.Policy != "" || len(s.Managed) > 0 }

// expired tells whether the session has ended at a time.
func (s *session) expired(now time.Time) bool { return now.Unix() >= s.Expires }

// sessionID is the unique id of a session: that of its role, and its name.
func sessionID(roleID, name string) string { return roleID + ":" + name }

// sessionARN is the ARN of a session, which has the name of its role without the path.
func (d *Directory) sessionARN(account, roleName, name string) string {
	return "arn:" + d.cfg.Partition + ":sts::" + account + ":assumed-role/" + roleName + "/" + name
}

// parseSessionARN takes the account, the role's name and the session's name out of the ARN of a session.
func (d *Directory) parseSessionARN(arn string) (account, roleName, name string, ok bool) {
	rest, ok := strings.CutPrefix(arn, "arn:"+d.cfg.Partition+":sts::")
	account, resource, _ := strings.Cut(rest, ":")
	resource, isSession := strings.CutPrefix(resource, "assumed-role/")
	roleName, name, _ = strings.Cut(resource, "/")
	return account, roleName, name, ok && isSession && namePattern.MatchString(roleName) && isSessionName(name)
}

// isSessionName tells whether a session can have a name.
func isSessionName(name string) bool {
	return len(name) >= 2 && len(name) <= 64 && namePattern.MatchString(name)
}

// complete makes a session whose role is there whole.
func (d *Directory) complete(s *session, role *principal) error {
	if s.Policy != "" {
		document, err := policy.ParseIdentityPolicy(s.Policy)
		if err != nil {
			return err
		}
		s.policies = []policy.Named{{Name: "session", Document: document}}
	}
	for _, tag := range s.Tags {
		s.tags = append(s.tags, keystore.Tag{Key: tag.Key, Value: tag.Value})
	}
	s.roleARN, s.roleName = role.arn, role.record.Name
	s.caller = Caller{account: s.Account, arn: d.sessionARN(s.Account, s.roleName, s.Name), id: sessionID(s.RoleID, s.Name), session: s}
	return nil
}

// SimulatedSession returns the Caller that a session of a role would be that began now, by its ARN; sessionPolicy bounds it, unless it is
// empty. NoSuchEntity when there is no such role. It is for questions about what a session may, which nobody has begun.
func (d *Directory) SimulatedSession(ctx context.Context, arn, sessionPolicy string) (Caller, error) {
	id, ok, err := d.ARNToID(ctx, arn)
	if err == nil && !ok {
		err = failure(noSuchEntity, "The principal with ARN %s cannot be found.", arn)
	}
	if err != nil {
		return Caller{}, err
	}
	account := AccountOfARN(arn)
	roleID, name, _ := strings.Cut(id, ":")
	role, err := d.principal(ctx, account, roleID)
	if err != nil {
		return Caller{}, err
	}
	now := d.cfg.Now().Unix()
	s := &session{sessionClaims: sessionClaims{Account: account, RoleID: roleID, Name: name, Issued: now, Expires: now + defaultDuration,
		Policy: sessionPolicy}}
	if err := d.complete(s, role); err != nil {
		return Caller{}, failure(malformedPolicyDocument, "%v", err)
	}
	return s.caller, nil
}

// IsSessionARN tells whether an ARN has the form of that of a session of a role.
func (d *Directory) IsSessionARN(arn string) bool {
	_, _, _, ok := d.parseSessionARN(arn)
	return ok
}

// condition is the value of a condition key that only sessions have; ok tells whether the session decides about the key.
func (s *session) condition(name string) (values []string, ok bool) {
	if tag, isTag := strings.CutPrefix(name, "principaltag/"); isTag {
		return TagValues(s.tags, tag)
	}
	switch name {
	case "principalarn":
		return one(s.roleARN)
	case "tokenissuetime":
		return one(time.Unix(s.Issued, 0).UTC().Format(time.RFC3339))
	case "multifactorauthpresent":
		return one("false")
	case "federatedprovider":
		if s.Provider != "" {
			return one(s.Provider)
		}
	case "sourceidentity":
		if s.SourceIdentity != "" {
			return one(s.SourceIdentity)
		}
	}
	return nil, false
}

// describe tells an event of what a session it is.
func (s *session) describe(e *audit.Event) {
	e.Session = &audit.Session{RoleARN: s.roleARN, RoleID: s.RoleID, RoleName: s.roleName, Created: time.Unix(s.Issued, 0).UTC(),
		SourceIdentity: s.SourceIdentity}
}
