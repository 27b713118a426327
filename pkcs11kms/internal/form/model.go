package form

import "strings"

// Member is a member of an input, or of a structure inside one.
type Member struct {
	Name     string
	Required bool
	Rule     Rule
}

// Rule is what the model says of the values of a member, whatever the input: a name stands for the same shape in all of
// them. The zero Rule says nothing, or that the type says all: booleans, timestamps, maps, structures, enumerations.
type Rule struct {
	Least, Most int    // length of a text (UTF-16 units), a blob (bytes) or a list; value of a number
	Pattern     string // of the whole text, as the model writes it (a regular expression of Java)
	Hidden      bool   // the value is never part of an error
	Each        *Rule  // of the elements of a list
}

// Members returns the members of a structure in the order of the model: of the input of an operation by the operation's
// name, of a structure inside one by its own. ok is false for a name that is unknown.
func Members(structure string) (members []Member, ok bool) {
	row, ok := structures[structure]
	for word := range strings.FieldsSeq(row) {
		name, required := strings.CutSuffix(word, "!")
		members = append(members, Member{Name: name, Required: required, Rule: rules[name]})
	}
	return members, ok
}

const (
	principalPattern = `^[\w+=,.@:/-]+$`
	servicePattern   = `^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$`
	regionPattern    = `^([a-z]+-){2,3}\d+$`
	namePattern      = `^[a-zA-Z0-9:/_-]+$`
)

var (
	keyID      = Rule{Least: 1, Most: 2048}
	ciphertext = Rule{Least: 1, Most: 6144}
	plaintext  = Rule{Least: 1, Most: 4096}
	storeName  = Rule{Least: 1, Most: 256}
	principal  = Rule{Least: 1, Most: 256, Pattern: principalPattern}
	service    = Rule{Least: 1, Most: 128, Pattern: servicePattern}
	region     = Rule{Least: 1, Most: 32, Pattern: regionPattern}
	grantToken = Rule{Least: 1, Most: 8192, Hidden: true}
	tagKey     = Rule{Least: 1, Most: 128}
)

var rules = map[string]Rule{
	"AccessKeyId":                     {Least: 20, Most: 30, Pattern: `^[A-Z2-7]+$`, Hidden: true},
	"AliasName":                       {Least: 1, Most: 256, Pattern: namePattern},
	"AttestationDocument":             {Least: 1, Most: 262144},
	"CiphertextBlob":                  ciphertext,
	"CloudHsmClusterId":               {Least: 19, Most: 24, Pattern: `cluster-[2-7a-zA-Z]{11,16}`},
	"CustomKeyStoreId":                {Least: 1, Most: 64},
	"CustomKeyStoreName":              storeName,
	"Description":                     {Least: 0, Most: 8192},
	"DestinationKeyId":                keyID,
	"EncryptedKeyMaterial":            ciphertext,
	"GrantId":                         {Least: 1, Most: 128},
	"GrantToken":                      grantToken,
	"GrantTokens":                     {Least: 0, Most: 10, Each: &grantToken},
	"GranteePrincipal":                principal,
	"GranteeServicePrincipal":         service,
	"ImportToken":                     ciphertext,
	"KeyId":                           keyID,
	"KeyMaterialDescription":          {Least: 0, Most: 256, Pattern: `^[a-zA-Z0-9:/_\s.-]+$`},
	"KeyMaterialId":                   {Least: 64, Most: 64, Pattern: `^[a-f0-9]+$`},
	"KeyStorePassword":                {Least: 7, Most: 32, Hidden: true},
	"Limit":                           {Least: 1, Most: 1000},
	"Mac":                             ciphertext,
	"Marker":                          {Least: 1, Most: 1024, Pattern: `[\u0020-\u00FF]*`},
	"Message":                         plaintext,
	"Name":                            {Least: 1, Most: 256, Pattern: namePattern},
	"NewCustomKeyStoreName":           storeName,
	"NumberOfBytes":                   {Least: 1, Most: 1024},
	"PendingWindowInDays":             {Least: 1, Most: 365},
	"Plaintext":                       plaintext,
	"Policy":                          {Least: 1, Most: 131072, Pattern: `[\u0009\u000A\u000D\u0020-\u00FF]+`, Hidden: true},
	"PolicyName":                      {Least: 1, Most: 128, Pattern: `[\w]+`},
	"PrimaryRegion":                   region,
	"PublicKey":                       {Least: 1, Most: 8192},
	"RawSecretAccessKey":              {Least: 43, Most: 64, Pattern: `^[a-zA-Z0-9\/+=]+$`, Hidden: true},
	"ReplicaRegion":                   region,
	"RetiringPrincipal":               principal,
	"RetiringServicePrincipal":        service,
	"RotationPeriodInDays":            {Least: 90, Most: 2560},
	"SharedSecretCiphertextBlob":      ciphertext,
	"Signature":                       ciphertext,
	"SourceArn":                       {Least: 20, Most: 512, Pattern: `^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$`},
	"SourceKeyId":                     keyID,
	"TagKey":                          tagKey,
	"TagKeys":                         {Each: &tagKey},
	"TagValue":                        {Least: 0, Most: 256},
	"TargetKeyId":                     keyID,
	"TrustAnchorCertificate":          {Least: 1, Most: 5000},
	"XksKeyId":                        {Least: 1, Most: 128, Pattern: `^[a-zA-Z0-9-_.]+$`},
	"XksProxyUriEndpoint":             {Least: 10, Most: 128, Pattern: `^https://[a-zA-Z0-9.-]+$`},
	"XksProxyUriPath":                 {Least: 10, Most: 128, Pattern: `^(/[a-zA-Z0-9\/_-]+/kms/xks/v\d{1,2})$|^(/kms/xks/v\d{1,2})$`},
	"XksProxyVpcEndpointServiceName":  {Least: 20, Most: 64, Pattern: `^(com|eu)\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$`},
	"XksProxyVpcEndpointServiceOwner": {Least: 12, Most: 12, Pattern: `[0-9]{12}`},
}

// xks are the members that CreateCustomKeyStore and UpdateCustomKeyStore have in common, at their end.
const xks = " XksProxyUriEndpoint XksProxyUriPath XksProxyVpcEndpointServiceName XksProxyVpcEndpointServiceOwner" +
	" XksProxyAuthenticationCredential XksProxyConnectivity"

// structures are the members of each input and of the structures inside, in the order of the model. "!" stands behind those
// that are required.
var structures = map[string]string{
	"CancelKeyDeletion":     "KeyId!",
	"ConnectCustomKeyStore": "CustomKeyStoreId!",
	"CreateAlias":           "AliasName! TargetKeyId!",
	"CreateCustomKeyStore":  "CustomKeyStoreName! CloudHsmClusterId TrustAnchorCertificate KeyStorePassword CustomKeyStoreType" + xks,
	"CreateGrant": "KeyId! GranteePrincipal RetiringPrincipal Operations! Constraints GrantTokens Name DryRun" +
		" GranteeServicePrincipal RetiringServicePrincipal",
	"CreateKey": "Policy Description KeyUsage CustomerMasterKeySpec KeySpec Origin CustomKeyStoreId BypassPolicyLockoutSafetyCheck" +
		" Tags MultiRegion XksKeyId",
	"Decapsulate": "KeyId! SharedSecretCiphertextBlob! EncapsulationAlgorithm! GrantTokens DryRun",
	"Decrypt": "CiphertextBlob EncryptionContext GrantTokens KeyId EncryptionAlgorithm Recipient DryRun" +
		" DryRunModifiers",
	"DeleteAlias":                         "AliasName!",
	"DeleteCustomKeyStore":                "CustomKeyStoreId!",
	"DeleteImportedKeyMaterial":           "KeyId! KeyMaterialId",
	"DeriveSharedSecret":                  "KeyId! KeyAgreementAlgorithm! PublicKey! GrantTokens DryRun Recipient",
	"DescribeCustomKeyStores":             "CustomKeyStoreId CustomKeyStoreName Limit Marker",
	"DescribeKey":                         "KeyId! GrantTokens",
	"DisableKey":                          "KeyId!",
	"DisableKeyRotation":                  "KeyId!",
	"DisconnectCustomKeyStore":            "CustomKeyStoreId!",
	"EnableKey":                           "KeyId!",
	"EnableKeyRotation":                   "KeyId! RotationPeriodInDays",
	"Encapsulate":                         "KeyId! EncapsulationAlgorithm! GrantTokens DryRun",
	"Encrypt":                             "KeyId! Plaintext! EncryptionContext GrantTokens EncryptionAlgorithm DryRun",
	"GenerateDataKey":                     "KeyId! EncryptionContext NumberOfBytes KeySpec GrantTokens Recipient DryRun",
	"GenerateDataKeyPair":                 "EncryptionContext KeyId! KeyPairSpec! GrantTokens Recipient DryRun",
	"GenerateDataKeyPairWithoutPlaintext": "EncryptionContext KeyId! KeyPairSpec! GrantTokens DryRun",
	"GenerateDataKeyWithoutPlaintext":     "KeyId! EncryptionContext KeySpec NumberOfBytes GrantTokens DryRun",
	"GenerateMac":                         "Message! KeyId! MacAlgorithm! GrantTokens DryRun",
	"GenerateRandom":                      "NumberOfBytes CustomKeyStoreId Recipient",
	"GetKeyLastUsage":                     "KeyId!",
	"GetKeyPolicy":                        "KeyId! PolicyName",
	"GetKeyRotationStatus":                "KeyId!",
	"GetParametersForImport":              "KeyId! WrappingAlgorithm! WrappingKeySpec!",
	"GetPublicKey":                        "KeyId! GrantTokens",
	"ImportKeyMaterial": "KeyId! ImportToken! EncryptedKeyMaterial! ValidTo ExpirationModel ImportType KeyMaterialDescription" +
		" KeyMaterialId",
	"ListAliases":         "KeyId Limit Marker",
	"ListGrants":          "Limit Marker KeyId! GrantId GranteePrincipal GranteeServicePrincipal",
	"ListKeyPolicies":     "KeyId! Limit Marker",
	"ListKeyRotations":    "KeyId! IncludeKeyMaterial Limit Marker",
	"ListKeys":            "Limit Marker",
	"ListResourceTags":    "KeyId! Limit Marker",
	"ListRetirableGrants": "Limit Marker RetiringPrincipal RetiringServicePrincipal",
	"PutKeyPolicy":        "KeyId! PolicyName Policy! BypassPolicyLockoutSafetyCheck",
	"ReEncrypt": "CiphertextBlob SourceEncryptionContext SourceKeyId DestinationKeyId! DestinationEncryptionContext" +
		" SourceEncryptionAlgorithm DestinationEncryptionAlgorithm GrantTokens DryRun DryRunModifiers",
	"ReplicateKey":         "KeyId! ReplicaRegion! Policy BypassPolicyLockoutSafetyCheck Description Tags",
	"RetireGrant":          "GrantToken KeyId GrantId DryRun",
	"RevokeGrant":          "KeyId! GrantId! DryRun",
	"RotateKeyOnDemand":    "KeyId!",
	"ScheduleKeyDeletion":  "KeyId! PendingWindowInDays",
	"Sign":                 "KeyId! Message! MessageType GrantTokens SigningAlgorithm! DryRun",
	"TagResource":          "KeyId! Tags!",
	"UntagResource":        "KeyId! TagKeys!",
	"UpdateAlias":          "AliasName! TargetKeyId!",
	"UpdateCustomKeyStore": "CustomKeyStoreId! NewCustomKeyStoreName KeyStorePassword CloudHsmClusterId" + xks,
	"UpdateKeyDescription": "KeyId! Description!",
	"UpdatePrimaryRegion":  "KeyId! PrimaryRegion!",
	"Verify":               "KeyId! Message! MessageType Signature! SigningAlgorithm! GrantTokens DryRun",
	"VerifyMac":            "Message! KeyId! MacAlgorithm! Mac! GrantTokens DryRun",

	"GrantConstraints":                     "EncryptionContextSubset EncryptionContextEquals SourceArn",
	"RecipientInfo":                        "KeyEncryptionAlgorithm AttestationDocument",
	"Tag":                                  "TagKey! TagValue!",
	"XksProxyAuthenticationCredentialType": "AccessKeyId! RawSecretAccessKey!",
}
