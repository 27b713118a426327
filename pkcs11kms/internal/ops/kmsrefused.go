package ops

// The operations of AWS KMS that exist for kinds of keys, key stores and relations that this service does not have.

// Encryption, key agreement and encapsulation: found and checked like the others, then refused for every key.
var (
	Encrypt = add(Operation{Service: kms, Name: "Encrypt", Across: true, TakesAlias: true,
		States: EnabledOnly, Usage: encryptDecrypt, Rate: symmetric, Answer: Refused, Read: true,
		Record: []string{"encryptionContext", "keyId", "encryptionAlgorithm", "dryRun"}})
	Decrypt = add(Operation{Service: kms, Name: "Decrypt", Across: true, TakesAlias: true,
		States: EnabledOnly, Rate: symmetric, Answer: Refused, Read: true,
		Record: []string{"encryptionContext", "keyId", "encryptionAlgorithm", "dryRun"}})
	// ReEncrypt is decided on the key that it would encrypt with. That it would decrypt with another is never asked: this
	// service has no such key.
	ReEncrypt = add(Operation{Service: kms, Name: "ReEncrypt", Across: true, Action: "ReEncryptTo", TakesAlias: true,
		States: EnabledOnly, Usage: encryptDecrypt, Rate: symmetric, Answer: Refused, Read: true,
		Record: []string{"sourceEncryptionContext", "sourceKeyId", "destinationKeyId", "destinationEncryptionContext",
			"sourceEncryptionAlgorithm", "destinationEncryptionAlgorithm", "dryRun"}})
	GenerateDataKey = add(Operation{Service: kms, Name: "GenerateDataKey", Across: true, TakesAlias: true,
		States: EnabledOnly, Usage: encryptDecrypt, Rate: symmetric, Answer: Refused, Read: true,
		Record: []string{"keyId", "encryptionContext", "numberOfBytes", "keySpec", "dryRun"}})
	GenerateDataKeyWithoutPlaintext = add(Operation{Service: kms, Name: "GenerateDataKeyWithoutPlaintext", Across: true, TakesAlias: true,
		States: EnabledOnly, Usage: encryptDecrypt, Rate: symmetric, Answer: Refused, Read: true,
		Record: []string{"keyId", "encryptionContext", "keySpec", "numberOfBytes", "dryRun"}})
	GenerateDataKeyPair = add(Operation{Service: kms, Name: "GenerateDataKeyPair", Across: true, TakesAlias: true,
		States: EnabledOnly, Usage: encryptDecrypt, Answer: Refused, Read: true,
		Record: []string{"encryptionContext", "keyId", "keyPairSpec", "dryRun"}})
	GenerateDataKeyPairWithoutPlaintext = add(Operation{Service: kms, Name: "GenerateDataKeyPairWithoutPlaintext", Across: true,
		TakesAlias: true,
		States:     EnabledOnly, Usage: encryptDecrypt, Answer: Refused, Read: true,
		Record: []string{"encryptionContext", "keyId", "keyPairSpec", "dryRun"}})
	DeriveSharedSecret = add(Operation{Service: kms, Name: "DeriveSharedSecret", Across: true, TakesAlias: true,
		States: EnabledOnly, Usage: keyAgreement, Rate: ecc, Answer: Refused, Read: true,
		Record: []string{"keyId", "keyAgreementAlgorithm", "dryRun"}})
	Encapsulate = add(Operation{Service: kms, Name: "Encapsulate", TakesAlias: true,
		States: EnabledOnly, Usage: encapsulate, Answer: Refused, Read: true, Record: []string{"keyId", "dryRun"}})
	Decapsulate = add(Operation{Service: kms, Name: "Decapsulate", TakesAlias: true,
		States: EnabledOnly, Usage: encapsulate, Answer: Refused, Read: true, Record: []string{"keyId", "dryRun"}})
)

// Rotation, which HMAC keys and key pairs do not have.
var (
	EnableKeyRotation = add(Operation{Service: kms, Name: "EnableKeyRotation",
		Origin: Rotates, States: EnabledOnly, Rate: own(15), Answer: Refused, Record: []string{"keyId", "rotationPeriodInDays"}})
	DisableKeyRotation = add(Operation{Service: kms, Name: "DisableKeyRotation",
		Origin: Rotates, States: EnabledOnly, Rate: own(5), Answer: Refused, Record: []string{"keyId"}})
	RotateKeyOnDemand = add(Operation{Service: kms, Name: "RotateKeyOnDemand",
		States: EnabledOnly, Rate: own(5), Answer: Refused, Record: []string{"keyId"}})
	ListKeyRotations = add(Operation{Service: kms, Name: "ListKeyRotations",
		Rate: own(100), Answer: Refused, Read: true, Record: []string{"keyId", "includeKeyMaterial", "limit", "marker"}})
	GetKeyRotationStatus = add(Operation{Service: kms, Name: "GetKeyRotationStatus", Across: true,
		Origin: Rotates, Rate: own(1000), Read: true, Record: []string{"keyId"}})
)

// Operations that are known and not done, whatever the key is.
var (
	ReplicateKey = add(Operation{Service: kms, Name: "ReplicateKey", Answer: NotSupported,
		Conditions: []string{"aws:RequestTag/", "aws:TagKeys"},
		Record:     []string{"keyId", "replicaRegion", "policy", "bypassPolicyLockoutSafetyCheck", "description", "tags"}})
	UpdatePrimaryRegion = add(Operation{Service: kms, Name: "UpdatePrimaryRegion", Answer: NotSupported,
		Record: []string{"keyId", "primaryRegion"}})

	ConnectCustomKeyStore    = customKeyStores("ConnectCustomKeyStore", false, "customKeyStoreId")
	CreateCustomKeyStore     = customKeyStores("CreateCustomKeyStore", false, "customKeyStoreName", "cloudHsmClusterId", "customKeyStoreType")
	DeleteCustomKeyStore     = customKeyStores("DeleteCustomKeyStore", false, "customKeyStoreId")
	DescribeCustomKeyStores  = customKeyStores("DescribeCustomKeyStores", true, "customKeyStoreId", "customKeyStoreName", "limit", "marker")
	DisconnectCustomKeyStore = customKeyStores("DisconnectCustomKeyStore", false, "customKeyStoreId")
	UpdateCustomKeyStore     = customKeyStores("UpdateCustomKeyStore", false, "customKeyStoreId")
)

func customKeyStores(name string, read bool, record ...string) *Operation {
	return add(Operation{Service: kms, Name: name, Subject: Account, IdentityOnly: true, Answer: NotSupported, Read: read, Record: record})
}

// Actions that no request asks for here: of ReEncrypt, about the key that it would decrypt with, and of multi-Region keys.
var (
	_ = add(Operation{Service: kms, Name: "ReEncryptFrom", TakesAlias: true, Usage: encryptDecrypt, Answer: ActionOnly})
	_ = add(Operation{Service: kms, Name: "SynchronizeMultiRegionKey", Answer: ActionOnly})
)
