package clients

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// message has every byte, so no text in any encoding.
var message = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// macOf makes the MAC that every client must get, by the library.
func macOf(t *testing.T, srv *kmstest.Server, key, algorithm string) string {
	t.Helper()
	var in kms.GenerateMacInput
	require.NoError(t, translate(members{"KeyId": key, "MacAlgorithm": algorithm, "Message": base64Of(message)}, &in))
	out, err := inProcess(t, srv).GenerateMac(t.Context(), &in)
	require.NoError(t, err)
	return base64Of(out.Mac)
}

// tampered flips one bit of a tag.
func tampered(tag string) string {
	b, err := base64.StdEncoding.DecodeString(tag)
	if err != nil {
		panic(err)
	}
	b[len(b)-1] ^= 1
	return base64Of(b)
}

// TestMACs: each client gets the MACs that the library makes, byte by byte, and finds them valid. So what one client
// made is valid for every other.
func TestMACs(t *testing.T) {
	srv := newServer(t)
	specs := map[types.KeySpec]string{"HMAC_256": "HMAC_SHA_256", "HMAC_384": "HMAC_SHA_384"}
	keys, macs := map[types.KeySpec]string{}, map[types.KeySpec]string{}
	for spec, algorithm := range specs {
		keys[spec] = newKey(t, inProcess(t, srv), spec)
		macs[spec] = macOf(t, srv, keys[spec], algorithm)
	}
	onEachClient(t, func(t *testing.T, c client) {
		for spec, algorithm := range specs {
			input := members{"KeyId": keys[spec], "MacAlgorithm": algorithm, "Message": base64Of(message)}
			made := c.must(t, targetOf(srv), "GenerateMac", input)
			require.Equal(t, keys[spec], made["KeyId"])
			require.Equal(t, algorithm, made["MacAlgorithm"])
			require.True(t, made["Mac"] == macs[spec], "another MAC than the library's")
			input["Mac"] = made["Mac"]
			verified := c.must(t, targetOf(srv), "VerifyMac", input)
			require.Equal(t, keys[spec], verified["KeyId"])
			require.Equal(t, algorithm, verified["MacAlgorithm"])
			require.Equal(t, true, verified["MacValid"])
		}
	})
}

// TestKeys: the life of a key that the client itself makes.
func TestKeys(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	onEachClient(t, func(t *testing.T, c client) {
		created := metadata(t, c.must(t, to, "CreateKey",
			members{"KeySpec": "HMAC_384", "KeyUsage": "GENERATE_VERIFY_MAC", "Description": "ключ " + t.Name()}))
		require.Equal(t, "HMAC_384", created["KeySpec"])
		require.Equal(t, []any{"HMAC_SHA_384"}, created["MacAlgorithms"])
		require.Equal(t, "ключ "+t.Name(), created["Description"])
		require.Equal(t, true, created["Enabled"])
		require.Equal(t, "arn:aws:kms:"+srv.Region+":000000000000:key/"+created["KeyId"].(string), created["Arn"])
		for _, name := range []string{"KeyId", "Arn"} {
			described := metadata(t, c.must(t, to, "DescribeKey", members{"KeyId": created[name]}))
			require.Equal(t, created, described, "by %s", name)
		}

		use := members{"KeyId": created["KeyId"], "MacAlgorithm": "HMAC_SHA_384", "Message": base64Of(message)}
		require.Empty(t, c.must(t, to, "DisableKey", members{"KeyId": created["KeyId"]}))
		c.refused(t, c.do(t, to, "GenerateMac", use), "DisabledException", created["Arn"].(string)+" is disabled.")
		require.Empty(t, c.must(t, to, "EnableKey", members{"KeyId": created["Arn"]}))
		c.must(t, to, "GenerateMac", use)
	})
}

func metadata(t *testing.T, output members) members {
	t.Helper()
	m, ok := output["KeyMetadata"].(members)
	require.True(t, ok)
	require.NotEmpty(t, m["CreationDate"])
	return m
}

// TestRefusals: each client raises what its documentation says.
func TestRefusals(t *testing.T) {
	srv := newServer(t)
	key := newKey(t, inProcess(t, srv), "HMAC_256")
	mac := macOf(t, srv, key, "HMAC_SHA_256")
	with := func(changes members) members {
		input := members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		for name, value := range changes {
			input[name] = value
		}
		return input
	}
	const unknown = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"
	cases := []struct {
		name, operation string
		input           members
		code, text      string
	}{
		{"tampered tag", "VerifyMac", with(members{"Mac": tampered(mac)}), "KMSInvalidMacException", ""},
		{"tampered message", "VerifyMac", with(members{"Mac": mac, "Message": base64Of(message[1:])}), "KMSInvalidMacException", ""},
		{"unknown key", "GenerateMac", with(members{"KeyId": unknown}), "NotFoundException", "Key '" + unknown + "' does not exist"},
		{"malformed key id", "DescribeKey", members{"KeyId": "no-key-id"}, "NotFoundException", "Invalid keyId 'no-key-id'"},
		{"algorithm of another key", "GenerateMac", with(members{"MacAlgorithm": "HMAC_SHA_512"}), "InvalidKeyUsageException",
			"Algorithm HMAC_SHA_512 is incompatible with key spec HMAC_256."},
		{"unknown algorithm", "GenerateMac", with(members{"MacAlgorithm": "HMAC_MD5"}), "ValidationException",
			"Value 'HMAC_MD5' at 'macAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: "},
		{"long message", "GenerateMac", with(members{"Message": base64Of(make([]byte, 4097))}), "ValidationException",
			"Value at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"no key usage", "CreateKey", members{"KeySpec": "HMAC_256"}, "ValidationException", "You must specify a KeyUsage value"},
		{"dry run", "GenerateMac", with(members{"DryRun": true}), "DryRunOperationException",
			"The request would have succeeded, but the DryRun option is set."},
		{"operation that is not here", "ReplicateKey", members{"KeyId": key, "ReplicaRegion": "eu-west-1"}, "UnsupportedOperationException", ""},
	}
	onEachClient(t, func(t *testing.T, c client) {
		for _, test := range cases {
			t.Run(test.name, func(t *testing.T) {
				got := c.do(t, targetOf(srv), test.operation, test.input)
				if got.Unknown && (test.input["DryRun"] != nil || test.operation == "ReplicateKey") {
					t.Skip("left out: this client is older than the member, or has no verb for the operation")
				}
				c.refused(t, got, test.code, test.text)
			})
		}
		c.must(t, targetOf(srv), "VerifyMac", with(members{"Mac": mac}))
	})
}

// pagedList is a list of several pages.
type pagedList struct {
	operation string
	input     members
	entries   string   // the member with the list
	name      string   // what tells an entry from the others
	want      []string // the names
}

// pagedLists makes lists with a number of entries each.
func pagedLists(t *testing.T, library *pkcs11kms.Client, entries int) []pagedList {
	var keys, aliases, tags []string
	for i := range entries {
		key, alias, tag := newKey(t, library, "HMAC_256"), fmt.Sprint("alias/", i), fmt.Sprint("tag ", i)
		keys, aliases, tags = append(keys, key), append(aliases, alias), append(tags, tag)
		_, err := library.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &keys[0]})
		require.NoError(t, err)
		_, err = library.TagResource(t.Context(), &kms.TagResourceInput{KeyId: &keys[0], Tags: []types.Tag{{TagKey: &tag, TagValue: &alias}}})
		require.NoError(t, err)
	}
	return []pagedList{
		{"ListKeys", members{}, "Keys", "KeyArn", keys},
		{"ListAliases", members{}, "Aliases", "AliasName", aliases},
		{"ListAliases", members{"KeyId": keys[0]}, "Aliases", "AliasName", aliases},
		{"ListResourceTags", members{"KeyId": keys[0]}, "Tags", "TagKey", tags},
	}
}

// TestLists: each client's own way to read a list of several pages, one after the other so that the pages can be counted.
func TestLists(t *testing.T) {
	const entries, pageSize, pages = 7, 3, 3
	srv := newServer(t)
	lists := pagedLists(t, inProcess(t, srv), entries)
	for _, way := range clients {
		t.Run(way.name, func(t *testing.T) {
			c := way.make(t)
			for _, list := range lists {
				before := answered(t, srv, list.operation)
				input := members{"Limit": pageSize}
				maps.Copy(input, list.input)
				out := c.must(t, targetOf(srv), list.operation, input)
				require.Equal(t, pages, answered(t, srv, list.operation)-before, list.operation)
				var listed []string
				for _, entry := range out[list.entries].([]any) {
					listed = append(listed, entry.(members)[list.name].(string))
				}
				require.ElementsMatch(t, list.want, listed, list.operation)
			}
		})
	}
}

// answered is how many requests for an operation the server has answered.
func answered(t *testing.T, srv *kmstest.Server, operation string) int {
	t.Helper()
	response, err := http.Get(srv.AdminURL + "/metrics")
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	http.DefaultClient.CloseIdleConnections()
	count := regexp.MustCompile(`(?m)^pkcs11kms_requests_total\{operation="` + operation + `",result="OK"\} (\d+)$`).FindSubmatch(text)
	if count == nil {
		require.False(t, strings.Contains(string(text), `operation="`+operation+`"`), "counted in another form")
		return 0
	}
	n, err := strconv.Atoi(string(count[1]))
	require.NoError(t, err)
	return n
}
