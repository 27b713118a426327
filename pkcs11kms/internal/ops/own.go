package ops

// What AWS has no operation for: an operator's work on the records and objects of this service. They are decided like all others,
// by the caller's own policies.

const bridge = "pkcs11kms"

var (
	AdoptKey = add(Operation{Service: bridge, Name: "AdoptKey", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"region", "label", "ckaId", "keySpec", "deletion"}})
	RepairRecords = add(Operation{Service: bridge, Name: "RepairRecords", Subject: Account, IdentityOnly: true, Writes: true})
	DestroyObject = add(Operation{Service: bridge, Name: "DestroyObject", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"region", "ckaId"}})
	ProbeTokenObjects = add(Operation{Service: bridge, Name: "ProbeTokenObjects", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"region", "keySpec"}})
	BackupStore = add(Operation{Service: bridge, Name: "BackupStore", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"file"}})
	ListServiceKeys  = add(Operation{Service: bridge, Name: "ListServiceKeys", Subject: Account, IdentityOnly: true, Read: true})
	RotateServiceKey = add(Operation{Service: bridge, Name: "RotateServiceKey", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"purpose"}})
	RetireServiceKey = add(Operation{Service: bridge, Name: "RetireServiceKey", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"purpose", "epoch"}})
	CreateAccount = add(Operation{Service: bridge, Name: "CreateAccount", Subject: Account, IdentityOnly: true, Writes: true,
		Record: []string{"accountId", "accountName"}})
	UpdateOpenIDConnectProviderKeys = add(Operation{Service: bridge, Name: "UpdateOpenIDConnectProviderKeys", Subject: OIDCProvider,
		IdentityOnly: true, Writes: true, Record: []string{"openIDConnectProviderArn"}})
	ListAccounts = add(Operation{Service: bridge, Name: "ListAccounts", Subject: Account, IdentityOnly: true, Read: true})
)
