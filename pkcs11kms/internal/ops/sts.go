package ops

// AWS STS, of which this service has what needs no sessions.
var GetCallerIdentity = add(Operation{Service: "sts", Name: "GetCallerIdentity", Subject: Account, IdentityOnly: true, Free: true,
	Read: true})
