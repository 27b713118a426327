package pkcs11kms

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
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
	if !json.Valid([]byte(*text)) || duplicateNames([]byte(*text)) || json.Unmarshal([]byte(*text), &given) != nil {
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

// duplicateNames tells whether an object of a valid JSON document has a member twice: encoding/json would take the
// last one silently.
func duplicateNames(doc []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(doc))
	var stack []map[string]bool // nil: inside a list
	name := false               // the next string of the innermost object is a member name
	for {
		tok, err := dec.Token()
		if err != nil {
			return false
		}
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{':
				stack = append(stack, map[string]bool{})
			case '[':
				stack = append(stack, nil)
			default:
				stack = stack[:len(stack)-1]
			}
			name = len(stack) > 0 && stack[len(stack)-1] != nil
			continue
		case string:
			if name {
				names := stack[len(stack)-1]
				if names[tok] {
					return true
				}
				names[tok] = true
				name = false
				continue
			}
		}
		name = len(stack) > 0 && stack[len(stack)-1] != nil
	}
}
