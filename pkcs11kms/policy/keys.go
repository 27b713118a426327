package policy

import "strings"

// keyInfo is what lint knows about a condition key.
type keyInfo struct {
	family family // of its values
	multi  bool   // several values in one request: needs a set operator
	in     trait  // actions whose requests can have it; 0: no request to this service has it
	inKey  bool   // has an effect in key policies, too
}

// conditionKeys by lower-case name: semantics 6.5. A name that ends with a slash or a colon has a tag key or the like
// behind it.
var conditionKeys = map[string]keyInfo{
	"kms:macalgorithm":                           {stringFamily, false, mac, true},
	"kms:signingalgorithm":                       {stringFamily, false, signing, true},
	"kms:messagetype":                            {stringFamily, false, signing, true},
	"kms:keyspec":                                {stringFamily, false, creating | onKey, true},
	"kms:customermasterkeyspec":                  {stringFamily, false, creating | onKey, true},
	"kms:keyusage":                               {stringFamily, false, creating | onKey, true},
	"kms:customermasterkeyusage":                 {stringFamily, false, creating | onKey, true},
	"kms:keyorigin":                              {stringFamily, false, creating | onKey, true},
	"kms:multiregion":                            {boolFamily, false, creating | onKey, true},
	"kms:multiregionkeytype":                     {stringFamily, false, creating | onKey, true},
	"kms:requestalias":                           {stringFamily, false, byAlias, true},
	"kms:resourcealiases":                        {stringFamily, true, onKey, false},
	"kms:calleraccount":                          {stringFamily, false, onKey, true},
	"kms:bypasspolicylockoutsafetycheck":         {boolFamily, false, policySetting, true},
	"kms:schedulekeydeletionpendingwindowindays": {numericFamily, false, deleting, true},
	"kms:rotationperiodindays":                   {numericFamily, false, rotating, true},
	"kms:grantoperations":                        {stringFamily, true, granting, true},
	"kms:granteeprincipal":                       {arnFamily, false, granting, true},
	"kms:granteeserviceprincipal":                {stringFamily, false, granting, true},
	"kms:retiringprincipal":                      {arnFamily, false, granting, true},
	"kms:retiringserviceprincipal":               {stringFamily, false, granting, true},
	"kms:grantconstrainttype":                    {stringFamily, false, granting, true},
	"kms:grantconstraintsourcearn":               {arnFamily, false, granting, true},
	"kms:grantisforawsresource":                  {boolFamily, false, grantKind, true},
	"kms:replicaregion":                          {stringFamily, false, replicating, true},
	"kms:primaryregion":                          {stringFamily, false, moving, true},
	"kms:expirationmodel":                        {stringFamily, false, importing, true},
	"kms:validto":                                {dateFamily, false, importing, true},
	"kms:wrappingalgorithm":                      {stringFamily, false, importing, true},
	"kms:wrappingkeyspec":                        {stringFamily, false, importing, true},

	// For keys and callers that this service does not have.
	"kms:viaservice":             {stringFamily, false, 0, true},
	"kms:encryptionalgorithm":    {stringFamily, false, 0, true},
	"kms:encryptioncontext:":     {stringFamily, false, 0, true},
	"kms:encryptioncontextkeys":  {stringFamily, true, 0, true},
	"kms:datakeypairspec":        {stringFamily, false, 0, true},
	"kms:reencryptonsamekey":     {boolFamily, false, 0, true},
	"kms:keyagreementalgorithm":  {stringFamily, false, 0, true},
	"kms:recipientattestation:":  {stringFamily, false, 0, true},
	"aws:principalorgid":         {stringFamily, false, 0, true},
	"aws:principalorgpaths":      {stringFamily, true, 0, true},
	"aws:sourcevpc":              {stringFamily, false, 0, true},
	"aws:sourcevpce":             {stringFamily, false, 0, true},
	"aws:vpcsourceip":            {ipFamily, false, 0, true},
	"aws:sourcearn":              {arnFamily, false, 0, true},
	"aws:sourceaccount":          {stringFamily, false, 0, true},
	"aws:calledvia":              {stringFamily, true, 0, true},
	"aws:tokenissuetime":         {dateFamily, false, 0, true},
	"aws:multifactorauthpresent": {boolFamily, false, 0, true},
	"aws:multifactorauthage":     {numericFamily, false, 0, true},

	"aws:principalarn":     {arnFamily, false, everywhere, true},
	"aws:principalaccount": {stringFamily, false, everywhere, true},
	"aws:principaltype":    {stringFamily, false, everywhere, true},
	"aws:principaltag/":    {stringFamily, false, everywhere, true},
	"aws:userid":           {stringFamily, false, everywhere, true},
	"aws:username":         {stringFamily, false, everywhere, true},
	"aws:sourceip":         {ipFamily, false, everywhere, true},
	"aws:securetransport":  {boolFamily, false, everywhere, true},
	"aws:currenttime":      {dateFamily, false, everywhere, true},
	"aws:epochtime":        {numericFamily, false, everywhere, true},
	"aws:useragent":        {stringFamily, false, everywhere, true},
	"aws:requestedregion":  {stringFamily, false, everywhere, true},
	"aws:viaawsservice":    {boolFamily, false, everywhere, true},
	"aws:resourcetag/":     {stringFamily, false, onKey, false},
	"aws:requesttag/":      {stringFamily, false, tagging, true},
	"aws:tagkeys":          {stringFamily, true, tagKeys, true},
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
