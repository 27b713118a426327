package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// examinePolicy reads the key policy, and looks for the users and roles that it names by their unique ids.
func (d *examination) examinePolicy(ctx context.Context, record keystore.Key) {
	if record.Policy == "" {
		return
	}
	document, err := policy.ParseKeyPolicy(record.Policy)
	if err != nil {
		d.advise("key", record.ID, StatusError, fmt.Sprintf("its key policy cannot be read, so nobody may use it: %v", err),
			"restore the store from a backup; this program never wrote such a policy")
		return
	}
	var gone []string
	for _, name := range document.Principals() {
		if name == "*" || strings.HasPrefix(name, "arn:") || keystore.IsAccountID(name) {
			continue // everybody, or an account
		}
		_, err := d.store.Get(ctx, keystore.RightsRef(policy.SplitID(name, record.Account)))
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			gone = append(gone, name)
		case err != nil:
			d.fail("key", record.ID, err)
			return
		}
	}
	if len(gone) > 0 {
		d.advise("key", record.ID, StatusWarning, "its key policy names users or roles that were deleted: "+strings.Join(gone, ", "),
			"put the policy again without them: pkcs11kms get-key-policy --key-id "+record.ID+d.inAccount(record.Account)+
				" --query Policy --output text")
	}
}
