package policy

import "strings"

// keyInfo is what lint knows about a condition key.
type keyInfo struct {
	family family // of its values
	multi  bool   // several values in one request: needs a set operator
	of     source
	name   string // in conditionKeys
}

// source says which requests have a condition key.
type source int

const (
	noRequest   source = iota // none to this service
	anyRequest                // every one: it is about the caller, the connection or the time
	aboutKey                  // those about a key
	namingKey                 // those in which an alias can stand in the place of a key id
	ownRequests               // those of the actions that list it, see Action
	assuming                  // those for a session of a role
)

// conditionKeys by lower-case name: semantics 6.5. A name that ends with a slash or a colon has a tag key or the like
// behind it.
var conditionKeys = map[string]keyInfo{
	"kms:macalgorithm":                           {family: stringFamily, of: ownRequests},
	"kms:signingalgorithm":                       {family: stringFamily, of: ownRequests},
	"kms:messagetype":                            {family: stringFamily, of: ownRequests},
	"kms:keyspec":                                {family: stringFamily, of: aboutKey},
	"kms:customermasterkeyspec":                  {family: stringFamily, of: aboutKey},
	"kms:keyusage":                               {family: stringFamily, of: aboutKey},
	"kms:customermasterkeyusage":                 {family: stringFamily, of: aboutKey},
	"kms:keyorigin":                              {family: stringFamily, of: aboutKey},
	"kms:multiregion":                            {family: boolFamily, of: aboutKey},
	"kms:requestalias":                           {family: stringFamily, of: namingKey},
	"kms:resourcealiases":                        {family: stringFamily, multi: true, of: aboutKey},
	"kms:calleraccount":                          {family: stringFamily, of: aboutKey},
	"kms:bypasspolicylockoutsafetycheck":         {family: boolFamily, of: ownRequests},
	"kms:schedulekeydeletionpendingwindowindays": {family: numericFamily, of: ownRequests},
	"kms:grantoperations":                        {family: stringFamily, multi: true, of: ownRequests},
	"kms:granteeprincipal":                       {family: arnFamily, of: ownRequests},
	"kms:granteeserviceprincipal":                {family: stringFamily, of: ownRequests},
	"kms:retiringprincipal":                      {family: arnFamily, of: ownRequests},
	"kms:retiringserviceprincipal":               {family: stringFamily, of: ownRequests},
	"kms:grantconstrainttype":                    {family: stringFamily, of: ownRequests},
	"kms:grantconstraintsourcearn":               {family: arnFamily, of: ownRequests},
	"kms:expirationmodel":                        {family: stringFamily, of: ownRequests},
	"kms:wrappingalgorithm":                      {family: stringFamily, of: ownRequests},
	"kms:wrappingkeyspec":                        {family: stringFamily, of: ownRequests},
	"kms:validto":                                {family: dateFamily, of: ownRequests},
	"kms:grantisforawsresource":                  {family: boolFamily, of: ownRequests},

	// For keys, callers and operations that this service does not have.
	"kms:multiregionkeytype":    {family: stringFamily, of: noRequest},
	"kms:rotationperiodindays":  {family: numericFamily, of: noRequest},
	"kms:replicaregion":         {family: stringFamily, of: noRequest},
	"kms:primaryregion":         {family: stringFamily, of: noRequest},
	"kms:viaservice":            {family: stringFamily, of: noRequest},
	"kms:encryptionalgorithm":   {family: stringFamily, of: noRequest},
	"kms:encryptioncontext:":    {family: stringFamily, of: noRequest},
	"kms:encryptioncontextkeys": {family: stringFamily, multi: true, of: noRequest},
	"kms:datakeypairspec":       {family: stringFamily, of: noRequest},
	"kms:reencryptonsamekey":    {family: boolFamily, of: noRequest},
	"kms:keyagreementalgorithm": {family: stringFamily, of: noRequest},
	"kms:recipientattestation:": {family: stringFamily, of: noRequest},
	"aws:principalorgid":        {family: stringFamily, of: noRequest},
	"aws:principalorgpaths":     {family: stringFamily, multi: true, of: noRequest},
	"aws:sourcevpc":             {family: stringFamily, of: noRequest},
	"aws:sourcevpce":            {family: stringFamily, of: noRequest},
	"aws:vpcsourceip":           {family: ipFamily, of: noRequest},
	"aws:sourcearn":             {family: arnFamily, of: noRequest},
	"aws:sourceaccount":         {family: stringFamily, of: noRequest},
	"aws:calledvia":             {family: stringFamily, multi: true, of: noRequest},
	"aws:multifactorauthage":    {family: numericFamily, of: noRequest},

	// Of sessions alone; a request by another caller has none.
	"aws:tokenissuetime":         {family: dateFamily, of: anyRequest},
	"aws:multifactorauthpresent": {family: boolFamily, of: anyRequest},
	"aws:sourceidentity":         {family: stringFamily, of: anyRequest},
	"aws:federatedprovider":      {family: stringFamily, of: anyRequest},

	"sts:externalid":        {family: stringFamily, of: assuming},
	"sts:rolesessionname":   {family: stringFamily, of: assuming},
	"sts:sourceidentity":    {family: stringFamily, of: assuming},
	"sts:transitivetagkeys": {family: stringFamily, multi: true, of: assuming},

	"aws:principalarn":          {family: arnFamily, of: anyRequest},
	"aws:principalaccount":      {family: stringFamily, of: anyRequest},
	"aws:principaltype":         {family: stringFamily, of: anyRequest},
	"aws:principaltag/":         {family: stringFamily, of: anyRequest},
	"aws:userid":                {family: stringFamily, of: anyRequest},
	"aws:username":              {family: stringFamily, of: anyRequest},
	"aws:sourceip":              {family: ipFamily, of: anyRequest},
	"aws:securetransport":       {family: boolFamily, of: anyRequest},
	"aws:currenttime":           {family: dateFamily, of: anyRequest},
	"aws:epochtime":             {family: numericFamily, of: anyRequest},
	"aws:useragent":             {family: stringFamily, of: anyRequest},
	"aws:requestedregion":       {family: stringFamily, of: anyRequest},
	"aws:viaawsservice":         {family: boolFamily, of: anyRequest},
	"aws:principalisawsservice": {family: boolFamily, of: anyRequest},
	"aws:resourceaccount":       {family: stringFamily, of: anyRequest},
	"aws:resourcetag/":          {family: stringFamily, of: aboutKey},
	"aws:requesttag/":           {family: stringFamily, of: ownRequests},
	"aws:tagkeys":               {family: stringFamily, multi: true, of: ownRequests},
}

// lookupKey finds a key by its lower-case name.
func lookupKey(name string) (keyInfo, bool) {
	service, rest, _ := strings.Cut(name, ":")
	row := name
	if i := strings.IndexAny(rest, "/:"); i >= 0 && i+1 < len(rest) {
		row = service + ":" + rest[:i+1]
	} else if i >= 0 {
		return keyInfo{}, false
	}
	info, ok := conditionKeys[row]
	info.name = row
	return info, ok
}
