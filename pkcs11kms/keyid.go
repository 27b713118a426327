package pkcs11kms

import (
	"regexp"
	"strings"
)

// keyID is a parsed KeyId: a key or an alias, with the region and account it lives in.
type keyID struct {
	region  string
	account string
	id      string // bare key id, when it names a key
	alias   string // alias name with its prefix, when it names an alias
}

var keyIDPattern = regexp.MustCompile(
	`^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$`)

const aliasPrefix = "alias/"

// parseKeyID reads the forms of a KeyId (AWS KMS developer guide, "Key identifiers"): key id, key ARN and, where the
// operation takes them, alias name and alias ARN. Bare names mean the Client's own region and account.
func (c *Client) parseKeyID(text string, aliases bool) (keyID, error) {
	id := keyID{region: c.region.name, account: c.caller.account}
	resource := text
	if strings.HasPrefix(text, "arn:") {
		var err error
		if id, resource, err = c.parseARN(text); err != nil {
			return keyID{}, err
		}
	}
	switch {
	case strings.HasPrefix(resource, aliasPrefix) && aliases:
		id.alias = resource
	case !keyIDPattern.MatchString(resource):
		return keyID{}, notFound("Invalid keyId '%s'", text)
	default:
		id.id = resource
	}
	return id, nil
}

// parseARN takes an ARN apart and returns what follows "key/", or an alias with its prefix.
func (c *Client) parseARN(text string) (keyID, string, error) {
	parts := strings.SplitN(text, ":", 6)
	if len(parts) != 6 || parts[1] != c.bridge.cfg.Partition || parts[2] != "kms" || !accountPattern.MatchString(parts[4]) {
		return keyID{}, "", invalidArn("Invalid arn %s", text)
	}
	if parts[3] != c.region.name {
		// The real service answers NotFoundException here, not InvalidArnException.
		return keyID{}, "", notFound("Invalid arn %s", parts[3])
	}
	id := keyID{region: parts[3], account: parts[4]}
	if key, ok := strings.CutPrefix(parts[5], "key/"); ok {
		return id, key, nil
	}
	if strings.HasPrefix(parts[5], aliasPrefix) {
		return id, parts[5], nil
	}
	return keyID{}, "", invalidArn("Invalid arn %s", text)
}

// arn returns the ARN of the key or alias.
func (c *Client) arn(id keyID) string {
	resource := "key/" + id.id
	if id.alias != "" {
		resource = id.alias
	}
	return "arn:" + c.bridge.cfg.Partition + ":kms:" + id.region + ":" + id.account + ":" + resource
}
