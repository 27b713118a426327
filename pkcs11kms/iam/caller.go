package iam

import "net/netip"

// Caller is the principal in whose name a Client acts. The zero Caller is nobody: every operation is denied to it.
// Callers are values; they may be copied and compared. One of a user or role stands for that one alone: when it was
// removed, a namesake made later is another principal.
type Caller struct {
	account string
	arn     string
	id      string // unique id of the user or role; for the account's root the account
	conn    Connection

	connected bool // conn says where the caller comes from; otherwise the call is one in process
}

// Connection is where a request came from, as far as policies may ask: by the condition keys aws:SourceIp,
// aws:SecureTransport and aws:UserAgent. Calls in process have none of them.
type Connection struct {
	SourceIP  netip.Addr // of the peer, not what a header says; the zero Addr where the peer has none
	TLS       bool
	UserAgent string
}

// Account returns the account that the principal is of, or the empty string for nobody.
func (c Caller) Account() string { return c.account }

// ARN returns the ARN of the principal, or the empty string for nobody.
func (c Caller) ARN() string { return c.arn }

// ID returns the unique id of a user or role; for the account's root it is the account.
func (c Caller) ID() string { return c.id }

// From returns the same principal as it comes by a connection.
func (c Caller) From(conn Connection) Caller {
	c.conn, c.connected = conn, true
	return c
}

// IsNobody tells whether the caller is no principal at all.
func (c Caller) IsNobody() bool { return c.arn == "" }

// IsRoot tells whether the caller is the root of its account.
func (c Caller) IsRoot() bool { return !c.IsNobody() && c.id == c.account }
