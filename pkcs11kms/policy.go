package pkcs11kms

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

const policyModelLimit = 131072 // the constraint of the API model, in characters

var policyPattern = regexp.MustCompile(`^[\x{0009}\x{000A}\x{000D}\x{0020}-\x{00FF}]+$`)

// defaultPolicy is the key policy of every key: the text that GetKeyPolicy of the real service returns for a key that
// was created without a Policy.
func (c *Client) defaultPolicy() string {
	return `{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:` + c.bridge.cfg.Partition + `:iam::` + c.caller.account + `:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}`
}

// checkPolicy accepts a document that says the same as the default policy. Any other is refused: a policy that is
// stored and not enforced would be believed.
func (c *Client) checkPolicy(text *string) error {
	if text == nil {
		return nil
	}
	if quota := c.bridge.cfg.Quotas.PolicyBytes; len(*text) > quota {
		return limitExceeded(fmt.Sprintf("The policy document exceeds the maximum length of %d bytes.", quota))
	}
	var given, standard any
	if strictjson.Check([]byte(*text)) != nil || json.Unmarshal([]byte(*text), &given) != nil {
		return malformedPolicy("The policy document is not valid JSON.")
	}
	if err := json.Unmarshal([]byte(c.defaultPolicy()), &standard); err != nil {
		return err
	}
	if !reflect.DeepEqual(given, standard) {
		return unsupported("Key policies other than the default key policy are not supported.")
	}
	return nil
}
