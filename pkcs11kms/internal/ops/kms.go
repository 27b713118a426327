package ops

import "time"

// The operations of AWS KMS: the rows of the API reference. Rates are the service's defaults; that of the symmetric class
// has another value in each region of AWS, and this is the middle one.

const kms = "kms"

var (
	symmetric = &Rate{PerSecond: 10_000} // cryptographic operations with symmetric and HMAC keys, and random bytes
	rsa       = &Rate{PerSecond: 500}    // cryptographic operations with RSA keys
	ecc       = &Rate{PerSecond: 300}    // cryptographic operations with elliptic curve keys
)

// own is a Rate that no other operation shares.
func own(perSecond float64) *Rate { return &Rate{PerSecond: perSecond} }

// The values of KeyUsage.
const (
	encryptDecrypt    = "ENCRYPT_DECRYPT"
	signVerify        = "SIGN_VERIFY"
	generateVerifyMac = "GENERATE_VERIFY_MAC"
	keyAgreement      = "KEY_AGREEMENT"
	encapsulate       = "ENCAPSULATE_DECAPSULATE"
)

// Making, finding and ending keys.
var (
	// CreateKey may take longer: a token searches for the primes of a long RSA key for seconds, a smart card for many. SDKs
	// wait for an answer for a minute, and make another key after that.
	CreateKey = add(Operation{Service: kms, Name: "CreateKey", Subject: Account, IdentityOnly: true,
		Writes: true, Rate: own(5), Longer: time.Minute,
		Conditions: []string{"kms:KeySpec", "kms:CustomerMasterKeySpec", "kms:KeyUsage", "kms:CustomerMasterKeyUsage", "kms:KeyOrigin",
			"kms:MultiRegion", "aws:RequestTag/", "aws:TagKeys", "kms:BypassPolicyLockoutSafetyCheck"},
		Record: []string{"policy", "description", "keyUsage", "customerMasterKeySpec", "keySpec", "origin", "customKeyStoreId",
			"bypassPolicyLockoutSafetyCheck", "tags", "multiRegion", "xksKeyId"},
		Respond: []string{"keyMetadata"}})
	DescribeKey = add(Operation{Service: kms, Name: "DescribeKey", Across: true, TakesAlias: true, Grantable: true,
		Rate: own(2000), Read: true, Record: []string{"keyId"}})
	GetKeyLastUsage = add(Operation{Service: kms, Name: "GetKeyLastUsage",
		Rate: own(100), Read: true, Record: []string{"keyId"}})
	ListKeys = add(Operation{Service: kms, Name: "ListKeys", Subject: Account, IdentityOnly: true,
		Rate: own(500), Read: true, Record: []string{"limit", "marker"}})
	EnableKey = add(Operation{Service: kms, Name: "EnableKey",
		Writes: true, States: HasMaterial, Rate: own(5), Record: []string{"keyId"}})
	DisableKey = add(Operation{Service: kms, Name: "DisableKey",
		Writes: true, States: HasMaterial, Rate: own(5), Record: []string{"keyId"}})
	UpdateKeyDescription = add(Operation{Service: kms, Name: "UpdateKeyDescription",
		Writes: true, States: NotPending, Rate: own(5), Record: []string{"keyId", "description"}})
	ScheduleKeyDeletion = add(Operation{Service: kms, Name: "ScheduleKeyDeletion",
		Writes: true, States: NotPending, Rate: own(15), Conditions: []string{"kms:ScheduleKeyDeletionPendingWindowInDays"},
		Record:  []string{"keyId", "pendingWindowInDays"},
		Respond: []string{"keyId", "keyState", "deletionDate", "pendingWindowInDays"}})
	CancelKeyDeletion = add(Operation{Service: kms, Name: "CancelKeyDeletion",
		Writes: true, States: PendingOnly, Rate: own(5), Record: []string{"keyId"}})
)

// MACs, signatures and random bytes.
var (
	GenerateMac = add(Operation{Service: kms, Name: "GenerateMac", Across: true, TakesAlias: true, Grantable: true,
		States: EnabledOnly, Usage: generateVerifyMac, Rate: symmetric, Uses: true, Read: true,
		Conditions: []string{"kms:MacAlgorithm"},
		Record:     []string{"macAlgorithm", "keyId", "dryRun"}})
	VerifyMac = add(Operation{Service: kms, Name: "VerifyMac", Across: true, TakesAlias: true, Grantable: true,
		States: EnabledOnly, Usage: generateVerifyMac, Rate: symmetric, Uses: true, Read: true,
		Conditions: []string{"kms:MacAlgorithm"},
		Record:     []string{"macAlgorithm", "keyId", "dryRun"}})
	Sign = add(Operation{Service: kms, Name: "Sign", Across: true, TakesAlias: true, Grantable: true,
		States: EnabledOnly, Usage: signVerify, Rate: rsa, Curve: ecc, Uses: true, Read: true,
		Conditions: []string{"kms:SigningAlgorithm", "kms:MessageType"},
		Record:     []string{"messageType", "keyId", "signingAlgorithm", "dryRun"}})
	Verify = add(Operation{Service: kms, Name: "Verify", Across: true, TakesAlias: true, Grantable: true,
		States: EnabledOnly, Usage: signVerify, Rate: rsa, Curve: ecc, Uses: true, Read: true,
		Conditions: []string{"kms:SigningAlgorithm", "kms:MessageType"},
		Record:     []string{"messageType", "keyId", "signingAlgorithm", "dryRun"}})
	GetPublicKey = add(Operation{Service: kms, Name: "GetPublicKey", Across: true, TakesAlias: true, Grantable: true,
		States: EnabledOnly, Rate: own(2000), Read: true, Record: []string{"keyId"}})
	GenerateRandom = add(Operation{Service: kms, Name: "GenerateRandom", Subject: Account, IdentityOnly: true,
		Rate: symmetric, Read: true, Record: []string{"numberOfBytes", "customKeyStoreId"}})
)

// Imported key material. Making a pair for envelopes takes a token as long as making another RSA key, see CreateKey.
var (
	GetParametersForImport = add(Operation{Service: kms, Name: "GetParametersForImport",
		Origin: ExternalOnly, States: NotPending, Rate: own(0.25), Longer: time.Minute, Read: true,
		Conditions: []string{"kms:WrappingAlgorithm", "kms:WrappingKeySpec"},
		Record:     []string{"keyId", "wrappingAlgorithm", "wrappingKeySpec"}})
	ImportKeyMaterial = add(Operation{Service: kms, Name: "ImportKeyMaterial",
		Writes: true, Origin: ExternalOnly, States: NotPending, Rate: own(5),
		Conditions: []string{"kms:ExpirationModel", "kms:ValidTo"},
		Record:     []string{"keyId", "validTo", "expirationModel", "importType", "keyMaterialDescription"}})
	DeleteImportedKeyMaterial = add(Operation{Service: kms, Name: "DeleteImportedKeyMaterial",
		Writes: true, Origin: ExternalOnly, Rate: own(5), Record: []string{"keyId", "keyMaterialId"}})
)

// Aliases.
var (
	CreateAlias = add(Operation{Service: kms, Name: "CreateAlias", Subject: Alias,
		Writes: true, States: NotPending, Rate: own(5), Record: []string{"aliasName", "targetKeyId"}})
	UpdateAlias = add(Operation{Service: kms, Name: "UpdateAlias", Subject: Alias,
		Writes: true, States: NotPending, Rate: own(5), Record: []string{"aliasName", "targetKeyId"}})
	DeleteAlias = add(Operation{Service: kms, Name: "DeleteAlias", Subject: Alias,
		Writes: true, Rate: own(15), Record: []string{"aliasName"}})
	ListAliases = add(Operation{Service: kms, Name: "ListAliases", Subject: Account, IdentityOnly: true,
		Rate: own(500), Read: true, Record: []string{"keyId", "limit", "marker"}})
)

// Tags and policies.
var (
	TagResource = add(Operation{Service: kms, Name: "TagResource",
		Writes: true, States: NotPending, Rate: own(10), Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record: []string{"keyId", "tags"}})
	UntagResource = add(Operation{Service: kms, Name: "UntagResource",
		Writes: true, States: NotPending, Rate: own(5), Conditions: []string{"aws:TagKeys"},
		Record: []string{"keyId", "tagKeys"}})
	ListResourceTags = add(Operation{Service: kms, Name: "ListResourceTags",
		Rate: own(2000), Read: true, Record: []string{"keyId", "limit", "marker"}})
	PutKeyPolicy = add(Operation{Service: kms, Name: "PutKeyPolicy",
		Writes: true, Rate: own(15), Conditions: []string{"kms:BypassPolicyLockoutSafetyCheck"},
		Record: []string{"keyId", "policyName", "policy", "bypassPolicyLockoutSafetyCheck"}})
	GetKeyPolicy = add(Operation{Service: kms, Name: "GetKeyPolicy",
		Rate: own(1000), Read: true, Record: []string{"keyId", "policyName"}})
	ListKeyPolicies = add(Operation{Service: kms, Name: "ListKeyPolicies",
		Rate: own(100), Read: true, Record: []string{"keyId", "limit", "marker"}})
)

// Grants.
var (
	CreateGrant = add(Operation{Service: kms, Name: "CreateGrant", Across: true, Grantable: true,
		Writes: true, States: EnabledOnly, Rate: own(50),
		Conditions: []string{"kms:GrantOperations", "kms:GranteePrincipal", "kms:GranteeServicePrincipal", "kms:RetiringPrincipal",
			"kms:RetiringServicePrincipal", "kms:GrantConstraintType", "kms:GrantConstraintSourceArn", "kms:GrantIsForAWSResource"},
		Record: []string{"keyId", "granteePrincipal", "retiringPrincipal", "operations", "constraints", "name", "dryRun",
			"granteeServicePrincipal", "retiringServicePrincipal"},
		Respond: []string{"grantId"}})
	ListGrants = add(Operation{Service: kms, Name: "ListGrants", Across: true, Conditions: []string{"kms:GrantIsForAWSResource"},
		Rate: own(100), Read: true, Record: []string{"keyId", "grantId", "granteePrincipal", "limit", "marker"}})
	ListRetirableGrants = add(Operation{Service: kms, Name: "ListRetirableGrants", Subject: Account, IdentityOnly: true,
		Rate: own(100), Read: true, Record: []string{"retiringPrincipal", "limit", "marker"}})
	RetireGrant = add(Operation{Service: kms, Name: "RetireGrant", Across: true, Grantable: true,
		Writes: true, Rate: own(30), Record: []string{"keyId", "grantId", "dryRun"}})
	RevokeGrant = add(Operation{Service: kms, Name: "RevokeGrant", Across: true, Conditions: []string{"kms:GrantIsForAWSResource"},
		Writes: true, Rate: own(30), Record: []string{"keyId", "grantId", "dryRun"}})
)
