package token

// ReadPINFile returns the PIN that a pin-source names, for handing it to another PKCS#11 client. The file must be as
// private as Open wants it. Every error is an *OpenError.
func ReadPINFile(path string) (string, error) {
	pin, _, err := readPINFile(path)
	return pin, err
}
