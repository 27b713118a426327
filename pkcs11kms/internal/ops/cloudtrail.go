package ops

import "time"

// AWS CloudTrail, of which this service has the event history alone.
var LookupEvents = add(Operation{Service: "cloudtrail", Name: "LookupEvents", Subject: Account, IdentityOnly: true,
	Rate: own(2), Longer: 30 * time.Second, Read: true, // indexes that are missing are made
	Record: []string{"lookupAttributes", "startTime", "endTime", "eventCategory", "maxResults", "nextToken"}})
