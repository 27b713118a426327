package ops

// stsRate is that of AWS STS: the requests for credentials of an account together, and of who one is ("IAM and AWS STS quotas").
var stsRate = &Rate{PerSecond: 600}

// webIdentityRate is of the sessions that begin by tokens of OIDC providers, of the account of their roles.
var webIdentityRate = &Rate{PerSecond: 100}

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

	AssumeRoleWithWebIdentity = add(Operation{Service: "sts", Name: "AssumeRoleWithWebIdentity", Subject: Principal, Read: true,
		Rate: webIdentityRate, Conditions: []string{"sts:RoleSessionName"},
		Record:  []string{"roleArn", "roleSessionName", "durationSeconds", "policy", "policyArns"},
		Respond: []string{"credentials", "assumedRoleUser", "packedPolicySize", "subjectFromWebIdentityToken", "provider", "audience"}})

	// What AssumeRole needs beside, for session tags and a source identity.
	TagSession        = add(Operation{Service: "sts", Name: "TagSession", Subject: Principal, Answer: ActionOnly})
	SetSourceIdentity = add(Operation{Service: "sts", Name: "SetSourceIdentity", Subject: Principal, Answer: ActionOnly})
)
