package iam

import (
	"net/netip"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// Caller is the principal in whose name a Client acts. The zero Caller is nobody: every operation is denied to it.
// Callers are values; they may be copied and compared. One of a user or role stands for that one alone: when it was
// removed, a namesake made later is another principal.
type Caller struct {
	account string
	arn     string
	id      string // unique id of the user, role or session; for the account's root the account
	conn    Connection
	session *session // of a role; nil for others

	connected bool // conn says where the caller comes from; otherwise the call is one in process
}

// Connection is where a request came from, as far as policies may ask: by the condition keys aws:SourceIp,
// aws:SecureTransport and aws:UserAgent, and what the audit log tells of it beside that. Calls in process have none of them.
type Connection struct {
	SourceIP  netip.Addr // of the peer, not what a header says; the zero Addr where the peer has none
	TLS       bool
	UserAgent string

	RequestID   string // of the request, as its answer has it
	AccessKeyID string // what it is signed with
	TLSVersion  uint16 // as crypto/tls numbers them; 0 without TLS
	CipherSuite uint16
	Host        string // the Host header
}

// Account returns the account that the principal is of, or the empty string for nobody.
func (c Caller) Account() string { return c.account }

// ARN returns the ARN of the principal, or the empty string for nobody.
func (c Caller) ARN() string { return c.arn }

// ID returns the unique id of a user, a role or a session (AROA...:NAME); for the account's root it is the account.
func (c Caller) ID() string { return c.id }

// From returns the same principal as it comes by a connection.
func (c Caller) From(conn Connection) Caller {
	c.conn, c.connected = conn, true
	return c
}

// RequestID returns the id of the request that the caller comes by, or the empty string for a call in process.
func (c Caller) RequestID() string { return c.conn.RequestID }

// Describe tells an event who calls, and from where.
func (c Caller) Describe(e *audit.Event) {
	e.Account, e.Principal, e.PrincipalID = c.account, c.arn, c.id
	if c.session != nil {
		c.session.describe(e)
	}
	if !c.connected {
		return
	}
	e.RequestID = c.conn.RequestID
	e.Origin = audit.Origin{Remote: true, SourceIP: c.conn.SourceIP, UserAgent: c.conn.UserAgent, AccessKeyID: c.conn.AccessKeyID,
		TLSVersion: c.conn.TLSVersion, CipherSuite: c.conn.CipherSuite, Host: c.conn.Host}
}

// IsNobody tells whether the caller is no principal at all.
func (c Caller) IsNobody() bool { return c.arn == "" }

// IsSession tells whether the caller is a session of a role.
func (c Caller) IsSession() bool { return c.session != nil }

// recordID is the id of the record that the caller's rights are in: of a session that of its role.
func (c Caller) recordID() string {
	if c.session != nil {
		return c.session.RoleID
	}
	return c.id
}

// IsRoot tells whether the caller is the root of its account.
func (c Caller) IsRoot() bool { return !c.IsNobody() && c.id == c.account }
