package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// examineAlgorithms says by which algorithms the token's keys do not sign. That it makes no Ed25519ph signatures is said, and held against
// nobody: few tokens do.
func (d *examination) examineAlgorithms(name string, t *token.Token, r *TokenReport) {
	for _, spec := range keyring.SignSpecs {
		lacking := spec.Lacking(t)
		if len(lacking) == 0 || !slices.Contains(r.KeySpecs, string(spec.Name)) {
			continue
		}
		r.MissingAlgorithms[string(spec.Name)] = lacking
		text := fmt.Sprintf("its %s keys sign by %s, and not by %s", spec.Name, joined(spec.Signing(t)), joined(lacking))
		if slices.Equal(lacking, []types.SigningAlgorithmSpec{types.SigningAlgorithmSpecEd25519PhSha512}) {
			d.add("token", name, StatusOK, text)
			continue
		}
		algorithm, _ := keyring.SigningAlgorithm(lacking[0])
		d.advise("token", name, StatusWarning, fmt.Sprintf("%s: %v", text, t.Lacks(spec.Pair, algorithm)),
			"CreateKey makes keys of this spec, and Sign refuses these algorithms; use the others")
	}
}

// joined lists names.
func joined(algorithms []types.SigningAlgorithmSpec) string {
	names := make([]string, len(algorithms))
	for i, name := range algorithms {
		names[i] = string(name)
	}
	return strings.Join(names, ", ")
}
