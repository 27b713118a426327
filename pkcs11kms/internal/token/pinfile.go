package token

import "context"

// ReadPIN returns the PIN that Open would log in with, for handing it to another PKCS#11 client: from the callback if there is
// one, else from the file that the URI names, which must be as private as Open wants it. Every error is an *OpenError.
func ReadPIN(ctx context.Context, uri URI, callback func(context.Context) (string, error)) (string, error) {
	pin, _, err := pinSourceOf(uri, callback).read(ctx)
	return pin, err
}
