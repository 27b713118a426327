package pkcs11kms

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

// Root returns the root principal of the account. The default key policy allows it everything, and whatever needs a policy
// of the caller's own is allowed to it without one.
func (b *Bridge) Root() Caller {
	return Caller{account: b.cfg.AccountID, arn: b.iamARN("root"), id: b.cfg.AccountID}
}

// iamARN returns the ARN of what IAM has in the account.
func (b *Bridge) iamARN(resource string) string {
	return "arn:" + b.cfg.Partition + ":iam::" + b.cfg.AccountID + ":" + resource
}

// ARN returns the ARN of the principal, or the empty string for nobody.
func (c Caller) ARN() string { return c.arn }

// From returns the same principal as it comes by a connection.
func (c Caller) From(conn Connection) Caller {
	c.conn, c.connected = conn, true
	return c
}

func (c Caller) nobody() bool { return c.arn == "" }

// root tells whether the caller is the root of its account.
func (c Caller) root() bool { return !c.nobody() && c.id == c.account }

// As returns a handle on the same Bridge and region that acts in the name of caller. It is cheap.
func (c *Client) As(caller Caller) *Client {
	other := *c
	other.caller = caller
	return &other
}
