package policy

import "strings"

// trait is what lint knows about an action: which condition keys its requests can have, and where it may stand.
type trait uint32

const (
	onKey         trait = 1 << iota // has a key as its resource
	creating                        // CreateKey
	mac                             // GenerateMac, VerifyMac
	signing                         // Sign, Verify
	byAlias                         // takes an alias in the place of a key id
	granting                        // CreateGrant
	grantKind                       // CreateGrant, ListGrants, RevokeGrant
	deleting                        // ScheduleKeyDeletion
	rotating                        // EnableKeyRotation
	tagging                         // has tags in the request
	tagKeys                         // has tag keys in the request
	policySetting                   // has BypassPolicyLockoutSafetyCheck
	replicating                     // ReplicateKey
	moving                          // UpdatePrimaryRegion
	importing                       // GetParametersForImport, ImportKeyMaterial
	otherCrypto                     // encryption, key agreement: not for HMAC and signing keys
	onAlias                         // has an alias as its resource, besides a key
	identityOnly                    // never from a key policy
	everywhere    = trait(1<<32 - 1)
)

// actions of AWS KMS by lower-case name: the table of the Service Authorization Reference.
var actions = map[string]trait{
	"kms:cancelkeydeletion":                   onKey,
	"kms:connectcustomkeystore":               identityOnly,
	"kms:createalias":                         onKey | onAlias,
	"kms:createcustomkeystore":                identityOnly,
	"kms:creategrant":                         onKey | granting | grantKind,
	"kms:createkey":                           creating | tagging | tagKeys | policySetting | identityOnly,
	"kms:decapsulate":                         onKey | byAlias | otherCrypto,
	"kms:decrypt":                             onKey | byAlias | otherCrypto,
	"kms:deletealias":                         onKey | onAlias,
	"kms:deletecustomkeystore":                identityOnly,
	"kms:deleteimportedkeymaterial":           onKey,
	"kms:derivesharedsecret":                  onKey | byAlias | otherCrypto,
	"kms:describecustomkeystores":             identityOnly,
	"kms:describekey":                         onKey | byAlias,
	"kms:disablekey":                          onKey,
	"kms:disablekeyrotation":                  onKey,
	"kms:disconnectcustomkeystore":            identityOnly,
	"kms:enablekey":                           onKey,
	"kms:enablekeyrotation":                   onKey | rotating,
	"kms:encapsulate":                         onKey | byAlias | otherCrypto,
	"kms:encrypt":                             onKey | byAlias | otherCrypto,
	"kms:generatedatakey":                     onKey | byAlias | otherCrypto,
	"kms:generatedatakeypair":                 onKey | byAlias | otherCrypto,
	"kms:generatedatakeypairwithoutplaintext": onKey | byAlias | otherCrypto,
	"kms:generatedatakeywithoutplaintext":     onKey | byAlias | otherCrypto,
	"kms:generatemac":                         onKey | byAlias | mac,
	"kms:generaterandom":                      identityOnly,
	"kms:getkeylastusage":                     onKey,
	"kms:getkeypolicy":                        onKey,
	"kms:getkeyrotationstatus":                onKey,
	"kms:getparametersforimport":              onKey | importing,
	"kms:getpublickey":                        onKey | byAlias,
	"kms:importkeymaterial":                   onKey | importing,
	"kms:listaliases":                         identityOnly,
	"kms:listgrants":                          onKey | grantKind,
	"kms:listkeypolicies":                     onKey,
	"kms:listkeyrotations":                    onKey,
	"kms:listkeys":                            identityOnly,
	"kms:listresourcetags":                    onKey,
	"kms:listretirablegrants":                 identityOnly,
	"kms:putkeypolicy":                        onKey | policySetting,
	"kms:reencryptfrom":                       onKey | byAlias | otherCrypto,
	"kms:reencryptto":                         onKey | byAlias | otherCrypto,
	"kms:replicatekey":                        onKey | replicating | tagging | tagKeys,
	"kms:retiregrant":                         onKey,
	"kms:revokegrant":                         onKey | grantKind,
	"kms:rotatekeyondemand":                   onKey,
	"kms:schedulekeydeletion":                 onKey | deleting,
	"kms:sign":                                onKey | byAlias | signing,
	"kms:synchronizemultiregionkey":           onKey,
	"kms:tagresource":                         onKey | tagging | tagKeys,
	"kms:untagresource":                       onKey | tagKeys,
	"kms:updatealias":                         onKey | onAlias,
	"kms:updatecustomkeystore":                identityOnly,
	"kms:updatekeydescription":                onKey,
	"kms:updateprimaryregion":                 onKey | moving,
	"kms:verify":                              onKey | byAlias | signing,
	"kms:verifymac":                           onKey | byAlias | mac,
}

const maxActionBytes = 64 // longer than any name

// covered returns what the actions that a pattern covers can have, in any of them and in all of them. Both are 0 when it
// covers none.
func covered(text string) (some, all trait) {
	p := newPattern(strings.ToLower(text))
	left := len(actions) * maxActionBytes * (len(text) + 2)
	for name, t := range actions {
		if p.match(name, true, &left) != yes {
			continue
		}
		if some == 0 {
			all = t
		}
		some, all = some|t, all&t
	}
	return some, all
}

// IsAction tells whether AWS KMS has an action of that name, such as kms:GenerateMac, in whatever case.
func IsAction(name string) bool {
	_, ok := actions[strings.ToLower(name)]
	return ok
}

// IdentityOnly tells whether an action is never decided by a key policy, such as kms:ListKeys: its resource is *.
func IdentityOnly(name string) bool { return actions[strings.ToLower(name)]&identityOnly != 0 }

// TakesAlias tells whether the operation of an action takes an alias in the place of a key id.
func TakesAlias(name string) bool { return actions[strings.ToLower(name)]&byAlias != 0 }
