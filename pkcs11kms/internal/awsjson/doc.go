// Package awsjson translates between the bytes of awsJson1_1, the wire protocol of AWS KMS, and the structs of the AWS
// SDK's kms package: [Decode] reads a request body into an input struct, [Encode] and [Append] write an output struct
// as a response body, [EncodeError] writes the body of an error.
//
// encoding/json is not used, as it matches names without regard to case and ignores line breaks in base64, and both
// would make this service accept what the real one refuses. Where the protocol's sources are silent, the rules are:
//
//   - Names are compared exactly, after their escapes are resolved. Unknown members are skipped, but must be valid JSON.
//   - null means absent. It is refused as an element of a list or a map, which in this model cannot be sparse.
//   - Of members with the same name the last one wins, as a whole: lists and structures are not merged, and a last null
//     makes the member absent. The same holds for the keys of a map.
//   - Base64 is the standard alphabet with padding, without line breaks, and with zeros as its unused bits. "" is an
//     empty blob, which is not nil, so that validation can tell it from an absent one.
//   - An integer may be written as 10, 10.0 or 1e1, since JSON has only one kind of number; 10.5 is refused rather than
//     cut off. A number in a string is refused.
//   - A timestamp is a number of seconds, kept to the millisecond, from year 1 to year 9999.
//   - A body of no bytes is an empty object. A byte order mark, invalid UTF-8 and surrogates without their partner are
//     refused, wherever they stand: to replace them would change a name or a policy silently.
//   - Objects and lists nest at most [MaxDepth] deep, unknown members included.
//
// Time and memory are proportional to the length of the body, which the caller limits. An enumeration's value may be
// any string. "" is one, too: as the SDK's structs cannot tell it from an absent one, Decode returns an error that names it.
//
// A struct type is inspected on its first use only; its plan is kept for the life of the process. All functions are
// safe for concurrent use.
package awsjson
