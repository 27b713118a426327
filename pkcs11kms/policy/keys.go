package policy

import "strings"

// keyInfo is what lint knows about a condition key.
type keyInfo struct {
	family family // of its values
	multi  bool   // several values in one request: needs a set operator
	in     trait  // actions whose requests can have it; 0: no request to this service has it
}

// conditionKeys by lower-case name: semantics 6.5. A name that ends with a slash or a colon has a tag key or the like
// behind it.
var conditionKeys = map[string]keyInfo{
	"kms:macalgorithm":                           {stringFamily, false, mac},
	"kms:signingalgorithm":                       {stringFamily, false, signing},
	"kms:messagetype":                            {stringFamily, false, signing},
	"kms:keyspec":                                {stringFamily, false, creating | onKey},
	"kms:customermasterkeyspec":                  {stringFamily, false, creating | onKey},
	"kms:keyusage":                               {stringFamily, false, creating | onKey},
	"kms:customermasterkeyusage":                 {stringFamily, false, creating | onKey},
	"kms:keyorigin":                              {stringFamily, false, creating | onKey},
	"kms:multiregion":                            {boolFamily, false, creating | onKey},
	"kms:requestalias":                           {stringFamily, false, byAlias},
	"kms:resourcealiases":                        {stringFamily, true, onKey},
	"kms:calleraccount":                          {stringFamily, false, onKey},
	"kms:bypasspolicylockoutsafetycheck":         {boolFamily, false, policySetting},
	"kms:schedulekeydeletionpendingwindowindays": {numericFamily, false, deleting},

	// For keys, callers and operations that this service does not have.
	"kms:multiregionkeytype":       {stringFamily, false, 0},
	"kms:rotationperiodindays":     {numericFamily, false, 0},
	"kms:grantoperations":          {stringFamily, true, 0},
	"kms:granteeprincipal":         {arnFamily, false, 0},
	"kms:granteeserviceprincipal":  {stringFamily, false, 0},
	"kms:retiringprincipal":        {arnFamily, false, 0},
	"kms:retiringserviceprincipal": {stringFamily, false, 0},
	"kms:grantconstrainttype":      {stringFamily, false, 0},
	"kms:grantconstraintsourcearn": {arnFamily, false, 0},
	"kms:grantisforawsresource":    {boolFamily, false, 0},
	"kms:replicaregion":            {stringFamily, false, 0},
	"kms:primaryregion":            {stringFamily, false, 0},
	"kms:expirationmodel":          {stringFamily, false, 0},
	"kms:validto":                  {dateFamily, false, 0},
	"kms:wrappingalgorithm":        {stringFamily, false, 0},
	"kms:wrappingkeyspec":          {stringFamily, false, 0},
	"kms:viaservice":               {stringFamily, false, 0},
	"kms:encryptionalgorithm":      {stringFamily, false, 0},
	"kms:encryptioncontext:":       {stringFamily, false, 0},
	"kms:encryptioncontextkeys":    {stringFamily, true, 0},
	"kms:datakeypairspec":          {stringFamily, false, 0},
	"kms:reencryptonsamekey":       {boolFamily, false, 0},
	"kms:keyagreementalgorithm":    {stringFamily, false, 0},
	"kms:recipientattestation:":    {stringFamily, false, 0},
	"aws:principalorgid":           {stringFamily, false, 0},
	"aws:principalorgpaths":        {stringFamily, true, 0},
	"aws:sourcevpc":                {stringFamily, false, 0},
	"aws:sourcevpce":               {stringFamily, false, 0},
	"aws:vpcsourceip":              {ipFamily, false, 0},
	"aws:sourcearn":                {arnFamily, false, 0},
	"aws:sourceaccount":            {stringFamily, false, 0},
	"aws:calledvia":                {stringFamily, true, 0},
	"aws:tokenissuetime":           {dateFamily, false, 0},
	"aws:multifactorauthpresent":   {boolFamily, false, 0},
	"aws:multifactorauthage":       {numericFamily, false, 0},

	"aws:principalarn":          {arnFamily, false, everywhere},
	"aws:principalaccount":      {stringFamily, false, everywhere},
	"aws:principaltype":         {stringFamily, false, everywhere},
	"aws:principaltag/":         {stringFamily, false, everywhere},
	"aws:userid":                {stringFamily, false, everywhere},
	"aws:username":              {stringFamily, false, everywhere},
	"aws:sourceip":              {ipFamily, false, everywhere},
	"aws:securetransport":       {boolFamily, false, everywhere},
	"aws:currenttime":           {dateFamily, false, everywhere},
	"aws:epochtime":             {numericFamily, false, everywhere},
	"aws:useragent":             {stringFamily, false, everywhere},
	"aws:requestedregion":       {stringFamily, false, everywhere},
	"aws:viaawsservice":         {boolFamily, false, everywhere},
	"aws:principalisawsservice": {boolFamily, false, everywhere},
	"aws:resourceaccount":       {stringFamily, false, everywhere},
	"aws:resourcetag/":          {stringFamily, false, onKey},
	"aws:requesttag/":           {stringFamily, false, tagging},
	"aws:tagkeys":               {stringFamily, true, tagKeys},
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
	return info, ok
}
