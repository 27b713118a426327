package ops

// stsRate is that of AWS STS: the requests for credentials of an account together, and of who one is ("IAM and AWS STS quotas").
var stsRate = &Rate{PerSecond: 600}

// AWS STS. A role's trust policy decides on who may assume it, and the caller's own policies where that leaves it to them.
var (
	GetCallerIdentity = add(Operation{Service: "sts", Name: "GetCallerIdentity", Subject: Account, IdentityOnly: true, Free: true,
		Read: true, Rate: stsRate})
	AssumeRole = add(Operation{Service: "sts", Name: "AssumeRole", Subject: Principal, Read: true, Rate: stsRate,
		Conditions: []string{"sts:RoleSessionName", "sts:ExternalId", "sts:SourceIdentity", "sts:TransitiveTagKeys", "aws:RequestTag/",
			"aws:TagKeys"},
		Record: []string{"roleArn", "roleSessionName", "durationSeconds", "policy", "policyArns", "sourceIdentity", "tags", "transitiveTagKeys",
			"incomingTransitiveTags"},
		Respond: []string{"credentials", "assumedRoleUser", "packedPolicySize", "sourceIdentity"}})

	// What AssumeRole needs beside, for session tags and a source identity.
	TagSession        = add(Operation{Service: "sts", Name: "TagSession", Subject: Principal, Answer: ActionOnly})
	SetSourceIdentity = add(Operation{Service: "sts", Name: "SetSourceIdentity", Subject: Principal, Answer: ActionOnly})
)
