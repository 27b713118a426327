// Package policy reads and evaluates the documents that say who may do what: key policies and IAM identity policies.
//
//	key, err := policy.ParseKeyPolicy(text)
//	inline, err := policy.ParseIdentityPolicy(inlineText)
//	d := policy.Evaluate(policy.Request{
//		Principal: policy.Principal{
//			Account: "111122223333",
//			ARN:     "arn:aws:iam::111122223333:role/JwtProducer",
//			ID:      "AROAPRODUCER00000001",
//		},
//		Action:   "kms:GenerateMac",
//		Resource: "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
//		Account:  "111122223333",
//		Context:  context, // has the values of kms:MacAlgorithm, aws:SourceIp and so on
//	}, policy.Policies{Key: key, Identity: []policy.Named{{Name: "mac", Document: inline}}})
//	if !d.Allowed {
//		return denied(d.Reason)
//	}
//
// It is pure: no I/O, no clock, no logging. The same request and the same documents always give the same decision, and
// whatever a decision depends on is in its arguments: the time, for one, is the value of aws:CurrentTime.
//
// # Concepts
//
// A Document is parsed, checked and compiled once; evaluating it parses nothing. Parsing is strict: an unknown element, a
// member that is there twice, a condition operator or a date with a second reading is a *SyntaxError. A document that
// was taken is believed, so nothing in it is ignored.
//
// Any statement with Effect Deny that applies wins. Without one, a caller of the same account needs a statement of the
// key policy that names it, or one that names its account together with an Allow of its own identity policies. The
// account's root has that Allow by nature. A Grant stands in for the statement of the key policy. A caller of another
// account always needs both sides, unless a grant names it. An action without a key policy (kms:CreateKey) needs the
// identity policy alone. A Decision names the statement that it rests on; where nothing allows, the Reason depends on the
// caller's own policies, so that it does not tell what the key policy of somebody else's key says.
//
// A condition has a third answer besides true and false, for what cannot be judged: a number that is none, a key with
// several values without a set operator, a comparison that costs too much. A statement with such a condition does not
// allow, and does deny.
//
// Lint reads a document as a reviewer does: actions and condition keys that do not exist or have no effect where they
// stand.
//
// # Where AWS is silent or we are stricter
//
//   - ARNs in Resource and NotResource are compared as a whole, as IAM does: a "*" also covers colons and slashes. ArnLike
//     and ArnEquals compare each of the six parts by itself.
//   - The value of a policy variable is plain text: a "*" in a tag is no wildcard. A variable without a value fits
//     nothing, and under a negation cannot be judged; ${key, 'text'} gives a default.
//   - NotPrincipal goes with Deny only, and spares an identity only if its account is listed beside it.
//   - A Deny for an account denies all of its identities.
//   - Condition keys of a key policy begin with aws: or kms:. Unknown names are legal and remarked by Lint.
//   - Dates have a zone, or are whole days in UTC, or at least nine digits of seconds since 1970. Numbers have at most 15
//     digits. Booleans are true and false in lower case.
//   - Principals of the kinds AWS and Service only.
//   - kms:ResourceAliases is refused in a key policy, where AWS KMS gives it no effect.
//
// # Limits
//
// A document has at most MaxCharacters characters, of those that the API model allows. A statement may cost 512 steps of
// comparing for each byte of its text, so that no pattern and no value of a request, however long, keeps a process busy;
// what would cost more cannot be judged. Group policies, permissions boundaries, session policies, and service control
// policies are not evaluated here.
package policy
