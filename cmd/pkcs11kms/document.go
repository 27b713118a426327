package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jmespath/go-jmespath"
)

// memberOrder lists the members of the SDK's types in the order of the API model, which is that of the aws CLI's
// output. The SDK's structs have another one. Types that are not listed keep the order of their struct.
var memberOrder = map[string][]string{
	"KeyMetadata": {"AWSAccountId", "KeyId", "Arn", "CreationDate", "Enabled", "Description", "KeyUsage", "KeyState",
		"DeletionDate", "ValidTo", "Origin", "CustomKeyStoreId", "CloudHsmClusterId", "ExpirationModel", "KeyManager",
		"CustomerMasterKeySpec", "KeySpec", "EncryptionAlgorithms", "SigningAlgorithms", "KeyAgreementAlgorithms",
		"EncapsulationAlgorithms", "MultiRegion", "MultiRegionConfiguration", "PendingDeletionWindowInDays",
		"MacAlgorithms", "XksKeyConfiguration", "CurrentKeyMaterialId"},
	"GenerateMacOutput": {"Mac", "MacAlgorithm", "KeyId"},
	"VerifyMacOutput":   {"KeyId", "MacValid", "MacAlgorithm"},
	"SignOutput":        {"KeyId", "Signature", "SigningAlgorithm"},
	"VerifyOutput":      {"KeyId", "SignatureValid", "SigningAlgorithm"},
	"ListKeysOutput":    {"Keys", "NextMarker", "Truncated"},
	"KeyListEntry":      {"KeyId", "KeyArn"},

	"ListAliasesOutput":         {"Aliases", "NextMarker", "Truncated"},
	"AliasListEntry":            {"AliasName", "AliasArn", "TargetKeyId", "CreationDate", "LastUpdatedDate"},
	"ListResourceTagsOutput":    {"Tags", "NextMarker", "Truncated"},
	"Tag":                       {"TagKey", "TagValue"},
	"ScheduleKeyDeletionOutput": {"KeyId", "DeletionDate", "KeyState", "PendingWindowInDays"},
	"GetKeyPolicyOutput":        {"Policy", "PolicyName"},
	"ListKeyPoliciesOutput":     {"PolicyNames", "NextMarker", "Truncated"},
	"GetKeyRotationStatusOutput": {"KeyRotationEnabled", "KeyId", "RotationPeriodInDays", "NextRotationDate",
		"OnDemandRotationStartDate"},
	"ListKeyRotationsOutput": {"Rotations", "NextMarker", "Truncated"},
	"RotationsListEntry": {"KeyId", "KeyMaterialId", "KeyMaterialDescription", "ImportState", "KeyMaterialState",
		"ExpirationModel", "ValidTo", "RotationDate", "RotationType"},
	"GetPublicKeyOutput": {"KeyId", "PublicKey", "CustomerMasterKeySpec", "KeySpec", "KeyUsage", "EncryptionAlgorithms",
		"SigningAlgorithms", "KeyAgreementAlgorithms", "EncapsulationAlgorithms"},
	"GetParametersForImportOutput":    {"KeyId", "ImportToken", "PublicKey", "ParametersValidTo"},
	"ImportKeyMaterialOutput":         {"KeyId", "KeyMaterialId"},
	"DeleteImportedKeyMaterialOutput": {"KeyId", "KeyMaterialId"},
	"GenerateRandomOutput":            {"Plaintext", "CiphertextForRecipient"},
}

// document is a response as a tree of maps, lists and scalars, which is what JMESPath works on. Go's maps have no
// order, so the order of each map's keys stands beside the tree, by the identity of the map.
type document struct {
	root  any
	order map[uintptr][]string
	json  bool // it came as JSON: an empty object is something to show
}

// newDocument converts an output struct of the SDK. Absent members are left out, as the service leaves them out;
// booleans that are no pointers are always there.
func newDocument(output any) *document {
	d := &document{order: map[uintptr][]string{}}
	d.root, _ = d.convert(reflect.ValueOf(output))
	return d
}

// newJSONDocument makes a document of one that is JSON already. Numbers keep their digits where they are only shown; a query
// compares them, which JMESPath does with float64 alone.
func newJSONDocument(text []byte, forQuery bool) (*document, error) {
	d := &document{order: map[uintptr][]string{}, json: true}
	dec := json.NewDecoder(bytes.NewReader(text))
	if !forQuery {
		dec.UseNumber()
	}
	if err := dec.Decode(&d.root); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	return d, nil
}

// convert returns the value and whether it is there at all.
func (d *document) convert(v reflect.Value) (any, bool) {
	switch special := v.Interface().(type) {
	case time.Time:
		return timestamp(special), true
	case jsonText:
		return d.parse(string(special)), special != ""
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil, false
		}
		value, _ := d.convert(v.Elem())
		return value, true
	case reflect.Struct:
		return d.convertStruct(v), true
	case reflect.Slice:
		if v.IsNil() {
			return nil, false
		}
		if blob, ok := v.Interface().([]byte); ok {
			return base64.StdEncoding.EncodeToString(blob), true
		}
		list := make([]any, 0, v.Len())
		for i := range v.Len() {
			item, _ := d.convert(v.Index(i))
			list = append(list, item)
		}
		return list, true
	case reflect.String:
		return v.String(), v.Len() > 0 // of an enum, the empty string is the absent value
	case reflect.Bool:
		return v.Bool(), true
	}
	return v.Convert(reflect.TypeFor[float64]()).Float(), true // the one number type that JMESPath compares
}

func (d *document) convertStruct(v reflect.Value) map[string]any {
	members := map[string]any{}
	var names []string
	for field, value := range v.Fields() {
		if !field.IsExported() || field.Name == "ResultMetadata" {
			continue
		}
		if converted, ok := d.convert(value); ok {
			members[field.Name] = converted
			names = append(names, field.Name)
		}
	}
	if order := memberOrder[v.Type().Name()]; order != nil {
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(position(order, a), position(order, b)) })
	}
	d.order[identity(members)] = names
	return members
}

// jsonText is a JSON document that is shown as a part of the response, as the aws CLI shows the policies of IAM.
type jsonText string

// parse returns a JSON document as a part of the tree, or the text itself if it is none.
func (d *document) parse(text string) any {
	dec := json.NewDecoder(strings.NewReader(text))
	value, err := d.parseValue(dec)
	if err != nil {
		return text
	}
	return value
}

// parseValue reads a value, with the members of objects in the order of the text.
func (d *document) parseValue(dec *json.Decoder) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok {
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			item, err := d.parseValue(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err = dec.Token()
		return list, err
	case json.Delim('{'):
		return d.parseObject(dec)
	}
	return tok, nil
}

func (d *document) parseObject(dec *json.Decoder) (any, error) {
	members := map[string]any{}
	var names []string
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		value, err := d.parseValue(dec)
		if err != nil {
			return nil, err
		}
		if _, twice := members[name.(string)]; !twice {
			names = append(names, name.(string))
		}
		members[name.(string)] = value
	}
	d.order[identity(members)] = names
	_, err := dec.Token()
	return members, err
}

// position puts what the list does not know last: a member that is new in the SDK is still printed.
func position(order []string, name string) int {
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

func identity(m map[string]any) uintptr { return reflect.ValueOf(m).Pointer() }

// keys returns the keys of a map of the tree in their order; those of a map that a query made itself are sorted
// unless the query gave them an order.
func (d *document) keys(m map[string]any) []string {
	if names, ok := d.order[identity(m)]; ok {
		return names
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// apply runs a query on the document. Maps that the query makes get the order of the keys in its text.
func (d *document) apply(search *jmespath.JMESPath, text string) (*document, error) {
	root, err := search.Search(d.root)
	if err != nil {
		return nil, queryError(text, err)
	}
	result := &document{root: root, order: d.order, json: d.json}
	result.orderBy(root, text)
	return result, nil
}

// queryError is the error of a query that does not work on a response. The library's text is told only where it is sure
// not to show the response, of which a MAC or a secret is part.
func queryError(text string, err error) error {
	if !unknownFunction(err) {
		err = errors.New("a function does not take what it is given")
	}
	return &environmentError{fmt.Errorf("applying --query %q: %w", text, err), "look at the response without --query"}
}

// unknownFunction tells whether a query calls a function that there is not, which the library says in words only.
func unknownFunction(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "unknown function: ")
}

func (d *document) orderBy(value any, text string) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			d.orderBy(item, text)
		}
	case map[string]any:
		if _, known := d.order[identity(v)]; !known {
			names := d.keys(v)
			slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(keyAt(text, a), keyAt(text, b)) })
			d.order[identity(v)] = names
		}
		for _, item := range v {
			d.orderBy(item, text)
		}
	}
}

// keyAt finds where a multi-select hash names the key.
func keyAt(text, name string) int {
	pattern := regexp.MustCompile(`[{,]\s*"?` + regexp.QuoteMeta(name) + `"?\s*:`)
	if at := pattern.FindStringIndex(text); at != nil {
		return at[0]
	}
	return len(text)
}

// timestamp is ISO 8601 as version 2 of the aws CLI prints it: local time, microseconds unless there are none.
func timestamp(t time.Time) string {
	text := t.Local().Format("2006-01-02T15:04:05.000000-07:00")
	return strings.Replace(text, ".000000", "", 1)
}
