package jwt

// DecodeSegment decodes strict base64url.
var DecodeSegment = decodeSegment
