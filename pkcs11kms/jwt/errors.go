package jwt

import (
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

var (
	// ErrInvalidToken says that a token was examined and does not verify. Every other error of a Verifier says that it
	// could not be examined: KMS was not reached, or did not allow it. Beside it there is one of golang-jwt's errors, such as
	// ErrTokenExpired or ErrTokenSignatureInvalid, or one of those below.
	ErrInvalidToken = errors.New("the token does not verify")
	// ErrUnknownKey says that the token's kid is missing or names no usable key of the Verifier.
	ErrUnknownKey = errors.New("its kid names no key that may be used here")
	// ErrAlgorithm says that an algorithm does not go with the key, or is none of this package's.
	ErrAlgorithm = errors.New("the algorithm does not go with the key")
	// ErrNoUsableKey says that a key set has no key that can verify anything here.
	ErrNoUsableKey = errors.New("no key of the set can be used")
	// ErrClaims says that claims cannot be signed: they are no JSON object, say, or have an exp that is no time.
	ErrClaims = errors.New("the claims cannot be signed")
	// ErrTimes says, beside ErrClaims, that nobody could use a token with the exp, nbf or iat of the claims.
	ErrTimes = errors.New("no token with these times can be of use")
	// ErrTooLong says that a token is longer than MaxTokenBytes, or what is signed of it longer than KMS takes.
	ErrTooLong = errors.New("the token is too long")
)

// invalid makes an error that is ErrInvalidToken and also is the reason.
func invalid(reason error) error { return fmt.Errorf("%w: %w", ErrInvalidToken, reason) }

// invalidf is invalid with more to say about the reason.
func invalidf(reason error, format string, args ...any) error {
	return invalid(fmt.Errorf("%w: %s", reason, fmt.Sprintf(format, args...)))
}

// unusable tells whether an operation failed since its key is not there, or not in use.
func unusable(err error) bool {
	var missing *types.NotFoundException
	var disabled *types.DisabledException
	var state *types.KMSInvalidStateException
	return errors.As(err, &missing) || errors.As(err, &disabled) || errors.As(err, &state)
}

// denied tells whether KMS did not allow an operation.
func denied(err error) bool {
	var answer smithy.APIError
	return errors.As(err, &answer) && answer.ErrorCode() == "AccessDeniedException"
}
