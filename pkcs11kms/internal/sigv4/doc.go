// Package sigv4 verifies AWS Signature Version 4 as it stands in the Authorization header of a request. It knows neither
// keys nor KMS: the caller's Lookup turns an access key id into a signing key and into whatever identity the caller uses.
//
//	verifier := &sigv4.Verifier[Caller]{Service: "kms", Regions: []string{"us-east-1"}, Lookup: lookup}
//	caller, err := verifier.Verify(ctx, request, body)
//
// The body is read by the caller, who thereby sets its limit; the request must come from net/http's server, whose
// promises about methods and header names are relied on. Everything refused is an *Error with the code and the text of
// the real service as far as they are known. Any other error is Lookup's own.
//
// # Order of checks
//
// Syntax of the Authorization header, date, clock skew, which headers are signed, credential scope, declared payload hash,
// query string; then Lookup; then the signature and the payload hash. So a request that can be refused without a key never
// causes a look-up, which may cost a call to an HSM.
//
// # Stricter than the specification
//
// The list of signed headers must be in lower case, sorted and without repetition, must name host and every x-amz-* header
// of the request (otherwise the operation in x-amz-target could be exchanged), and must not name a header that the request
// does not have: an intermediary removed it, or it was never there. An x-amz-* header may occur only once, since SigV4 joins
// repeated headers by a comma and so cannot tell two values from one. The payload is always hashed: UNSIGNED-PAYLOAD and
// STREAMING-* are refused. Presigned requests (the signature in the query string) and SigV4a are refused.
//
// # What answers and timing reveal
//
// Whether an access key id is known: an unknown one is answered UnrecognizedClientException, as by AWS, and at once, so
// equal timing would hide nothing. Access key ids are no secrets. The time also shows whether Lookup had the signing key at
// hand. It shows nothing about the right signature: the comparison takes constant time, and no answer holds what was
// computed. SigV4 has no nonce: within the clock skew a recorded request can be sent again.
package sigv4
