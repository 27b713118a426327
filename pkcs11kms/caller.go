package pkcs11kms

// Caller is the principal in whose name a Client acts. The zero Caller is nobody: every operation is denied to it.
// Callers are values; they may be copied and compared.
type Caller struct {
	account string
	arn     string
}

// Root returns the root principal of an account, which the default key policy allows everything.
func (b *Bridge) Root() Caller {
	return Caller{account: b.cfg.AccountID, arn: "arn:" + b.cfg.Partition + ":iam::" + b.cfg.AccountID + ":root"}
}

// ARN returns the ARN of the principal, or the empty string for nobody.
func (c Caller) ARN() string { return c.arn }

func (c Caller) nobody() bool { return c.arn == "" }

// As returns a handle on the same Bridge and region that acts in the name of caller. It is cheap.
func (c *Client) As(caller Caller) *Client {
	other := *c
	other.caller = caller
	return &other
}
