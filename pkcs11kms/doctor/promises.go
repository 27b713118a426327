package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// examinePromises says what the token has shown of its promises: right answers, and keys that do not leave it. What could not be tried is
// said as such.
func (d *examination) examinePromises(ctx context.Context, name string, t *token.Token) {
	d.examineAnswers(name, t)
	able := t.Capabilities()
	switch {
	case !able.ValueTried:
		d.add("token", name, StatusWarning, "whether the value of a key can be read could not be tried: no HMAC key could be made")
	case !able.ValueReadRefused:
		d.advise("token", name, StatusError, "gives the value of a sensitive key away", "do not use this token")
	}
	p, err := t.TryPromises(ctx)
	switch {
	case err != nil:
		d.fail("token", name, fmt.Errorf("trying whether keys can leave the token: %w", err))
		return
	case errors.Is(p.Wrap, token.ErrLeaves):
		d.advise("token", name, StatusError, p.Wrap.Error(),
			"whoever has the PIN can take keys out of this token: use another one where that matters")
	case p.Wrap != nil:
		d.add("token", name, StatusWarning, fmt.Sprintf("whether a key that is not extractable can be wrapped: %v", p.Wrap))
	case able.ValueReadRefused:
		d.add("token", name, StatusOK, "lets no value of a key be read, and no key be wrapped that is not extractable")
	}
	if p.Duplicates == token.DuplicatesReplace {
		d.add("token", name, StatusWarning, "a key that is made with the CKA_ID of another one replaces it without a word")
	}
	if !able.AllowedMechanisms {
		d.add("token", name, StatusWarning, "does not honour CKA_ALLOWED_MECHANISMS: other clients may use a key with another hash")
	}
}

// examineAnswers says what the tests at the opening have shown.
func (d *examination) examineAnswers(name string, t *token.Token) {
	var known, equal []string
	for _, test := range t.SelfTests() {
		hash := "HMAC with " + test.Hash.String()
		switch {
		case errors.Is(test.Err, token.ErrWrong):
			d.advise("token", name, StatusError, fmt.Sprintf("%s: %v", hash, test.Err), "do not use this token: see its vendor's support")
		case test.Err != nil:
			d.add("token", name, StatusWarning, fmt.Sprintf("%s could not be tested: %v", hash, test.Err))
		case test.Known:
			known = append(known, test.Hash.String())
		default:
			equal = append(equal, test.Hash.String())
		}
	}
	if len(known) > 0 {
		d.add("token", name, StatusOK, "makes the published MACs of RFC 4231 with "+strings.Join(known, ", "))
	}
	if len(equal) > 0 {
		d.add("token", name, StatusOK, "takes no key of known value, and makes equal MACs twice with "+strings.Join(equal, ", "))
	}
}
