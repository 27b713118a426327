package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/softhsm"
)

// TestExamplesWork runs every line of every example. What the examples name is put in place: the keys, the files. The
// one thing that a test machine lacks is the module of a hardware vendor.
func TestExamplesWork(t *testing.T) {
	p := newProgram(t)
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600))
	}
	write("msg", "Hello")
	write("a.iso", "image")
	write("policy.json", p.must("get-key-policy", "--key-id", p.key, "--query", "Policy", "--output", "text"))
	write("generate-mac.json", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*"}}`)
	write("trust.json", `{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole"}}`)
	for kind := range principals {
		p.shell(withPolicy(kind))
	}
	p.shell(makePolicy)
	p.shell(makeProvider)
	p.certificate("server", 1)
	require.NoError(t, os.Mkdir(filepath.Join(p.dir, "dir"), 0o700))
	mac := p.command("sh", "-c", "pkcs11kms generate-mac --key-id "+p.key+
		" --mac-algorithm HMAC_SHA_256 --message fileb://msg --query Mac --output text | base64 -d > msg.mac")
	require.NoError(t, mac.Run())
	signing := strings.TrimSpace(p.must("create-key", "--key-spec", "RSA_2048", "--key-usage", "SIGN_VERIFY", "--query", "KeyMetadata.KeyId",
		"--output", "text"))
	sign := p.command("sh", "-c", "pkcs11kms sign --key-id "+signing+
		" --signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 --message fileb://msg --query Signature --output text | base64 -d > msg.sig")
	require.NoError(t, sign.Run())
	p.must("create-alias", "--alias-name", "alias/signer", "--target-key-id", signing)
	write("jwks.json", p.must("jwt", "jwks", "--key-id", signing))
	write("claims.json", `{"sub":"alice"}`)
	external := strings.TrimSpace(p.must("create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC", "--origin", "EXTERNAL",
		"--query", "KeyMetadata.KeyId", "--output", "text"))
	p.shell(strings.ReplaceAll(makeEnvelope, "$KEY", external))
	p.tryExample("serve", "pkcs11kms serve") // which seals the audit log
	theirs := p.theirObjects("--label sessions", "--id 0a1b2c3d", "--destroy-object 0a1b2c3d")

	for _, cmd := range verbs(t) {
		name := strings.TrimPrefix(cmd.CommandPath(), "pkcs11kms ")
		dir := "kms"
		if fresh, ok := freshDir[name]; ok {
			dir = fresh
		}
		accessKey := ""
		if strings.Contains(cmd.Example, "AKIAIOSFODNN7EXAMPLE") {
			accessKey = strings.TrimSpace(p.must("iam", "create-access-key", "--query", "AccessKey.AccessKeyId", "--output", "text"))
		}
		key := p.key
		if cmd.GroupID == groupSignatures || name == "jwt jwks" {
			key = signing
		}
		if strings.Contains(name, "import") {
			key = external
		}
		for line := range strings.SplitSeq(strings.ReplaceAll(cmd.Example, "\\\n", ""), "\n") {
			line = strings.ReplaceAll(line, "1234abcd-12ab-34cd-56ef-1234567890ab", key)
			line = strings.ReplaceAll(line, "AKIAIOSFODNN7EXAMPLE", accessKey)
			line = strings.ReplaceAll(line, "2027-01-31T12:00:00Z", time.Now().AddDate(0, 1, 0).UTC().Format(time.RFC3339))
			line = theirs.Replace(line)
			line = strings.ReplaceAll(line, "--state-dir ./kms", "--state-dir ./"+dir)
			line = strings.ReplaceAll(line, "/var/lib/pkcs11kms", "./vendor")
			before, after := around(name)
			p.shell(before)
			p.tryExample(name, strings.TrimSpace(line))
			p.shell(after)
		}
	}
}

// around returns what an example needs before and after it, so that it runs wherever it comes in the alphabet.
func around(verb string) (before, after string) {
	before, after = "true", "true"
	if text, ok := beforeExample[verb]; ok {
		before = text
	}
	if text, ok := afterExample[verb]; ok {
		after = text
	}
	return before, after
}

const (
	makeAlias    = "pkcs11kms create-alias --alias-name alias/tokens --target-key-id $KEY"
	makeGrant    = "pkcs11kms create-grant --key-id $KEY --operations DescribeKey --grantee-principal arn:aws:iam::000000000000:root"
	removeAlias  = "pkcs11kms delete-alias --alias-name alias/tokens"
	makePolicy   = "pkcs11kms iam create-policy --policy-name Mac --policy-document file://generate-mac.json"
	onPolicy     = " --policy-arn arn:aws:iam::000000000000:policy/Mac "
	makeProvider = "pkcs11kms iam create-open-id-connect-provider --url https://oidc.example.org/cluster"
	moreVersion  = "pkcs11kms iam create-policy-version" + onPolicy + "--policy-document file://generate-mac.json"
	dropPolicy   = "for v in $(pkcs11kms iam list-policy-versions" + onPolicy +
		"--query 'Versions[?IsDefaultVersion==`false`].VersionId' --output text); do pkcs11kms iam delete-policy-version" + onPolicy +
		"--version-id $v; done; pkcs11kms iam delete-policy" + onPolicy
	makeEnvelope = "openssl rand -out key.bin 32 && pkcs11kms get-parameters-for-import --key-id $KEY " +
		"--wrapping-algorithm RSAES_OAEP_SHA_256 --wrapping-key-spec RSA_2048 --query '[ImportToken,PublicKey]' --output text > envelope && " +
		"cut -f 1 envelope | base64 -d > token.bin && cut -f 2 envelope | base64 -d > public.der && " +
		"openssl pkeyutl -encrypt -pubin -inkey public.der -keyform DER -in key.bin -out wrapped.bin " +
		"-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256"
	takeBack = "pkcs11kms cancel-key-deletion --key-id $KEY && pkcs11kms enable-key --key-id $KEY"
)

// principals are the users and roles of the examples. They are there, with a policy, before each example.
var principals = map[string]string{"user": "Alice", "role": "JwtProducer", "group": "Operators"}

// principalVerb is a command line about the principal of a kind: KIND in it stands for user or role.
func principalVerb(kind, line string) string {
	line = strings.ReplaceAll("pkcs11kms iam "+line, "--principal", "--KIND-name "+principals[kind])
	return strings.ReplaceAll(line, "KIND", kind)
}

var (
	beforeExample = map[string]string{
		"audit verify":        "pkcs11kms audit head > head.json && pkcs11kms audit public-key > audit.pem && cp -r kms/audit copied",
		"cancel-key-deletion": "pkcs11kms schedule-key-deletion --key-id $KEY",
		"delete-alias":        makeAlias,
		"policy simulate":     makeAlias,
		"jwt sign":            makeAlias,
		"jwt verify":          makeAlias,
		"retire-grant":        makeGrant,
		"revoke-grant":        makeGrant,
		"restore":             "cp -a kms restored && rm restored/kms.db*",
		"service-key retire":  "pkcs11kms service-key rotate seal",
		"update-alias":        makeAlias,
	}
	afterExample = map[string]string{
		"cancel-key-deletion":   "pkcs11kms enable-key --key-id $KEY",
		"create-alias":          removeAlias,
		"jwt sign":              removeAlias,
		"jwt verify":            removeAlias,
		"disable-key":           "pkcs11kms enable-key --key-id $KEY",
		"schedule-key-deletion": takeBack,
		"policy simulate":       removeAlias,
		"update-alias":          removeAlias,
	}
)

func init() {
	for kind := range principals {
		verb := func(line string) string { return principalVerb(kind, line) }
		without := verb("delete-KIND-policy --principal --policy-name generate-mac")
		beforeExample[verb("create-KIND")[len("pkcs11kms "):]] = without + " && " + verb("delete-KIND --principal")
		beforeExample[verb("delete-KIND")[len("pkcs11kms "):]] = without
		for _, changed := range []string{"create-KIND", "delete-KIND", "delete-KIND-policy"} {
			afterExample[verb(changed)[len("pkcs11kms "):]] = withPolicy(kind)
		}
	}
	for kind := range principals {
		on := principalVerb(kind, "VERB-KIND-policy --principal"+onPolicy)
		beforeExample["iam detach-"+kind+"-policy"] = strings.ReplaceAll(on, "VERB", "attach")
		afterExample["iam attach-"+kind+"-policy"] = strings.ReplaceAll(on, "VERB", "detach")
	}
	afterExample["iam add-user-to-group"] = "pkcs11kms iam remove-user-from-group --group-name Operators --user-name Alice"
	beforeExample["iam create-policy"], afterExample["iam delete-policy"] = dropPolicy, makePolicy
	beforeExample["iam delete-policy-version"] = moreVersion
	afterExample["iam delete-open-id-connect-provider"] = makeProvider
	for _, changed := range []string{"create", "delete"} {
		afterExample["iam "+changed+"-policy-version"] = dropPolicy + " && " + makePolicy
	}
	beforeExample["iam create-access-key"] = "pkcs11kms iam create-role --role-name JwtConsumer 2>/dev/null || true"
}

// withPolicy makes the principal of a kind when it is missing, and gives it its policy.
func withPolicy(kind string) string {
	return "{ " + principalVerb(kind, "create-KIND --principal") + " 2>/dev/null || true; } && " +
		principalVerb(kind, "put-KIND-policy --principal --policy-name generate-mac --policy-document file://generate-mac.json")
}

// freshDir are the state directories of the verbs that do not take the one that everything else works on.
var freshDir = map[string]string{"init": "fresh", "restore": "restored"}

// theirObjects makes a key for each flag by which an example names an object of another application, and returns what puts
// its real name there. The application is another state directory on the same token.
func (p *program) theirObjects(flags ...string) *strings.Replacer {
	p.t.Helper()
	uri := "pkcs11:token=pkcs11kms?module-path=" + requireSoftHSM(p.t) + "&pin-source=file:" + filepath.Join(p.dir, "kms", "pin")
	p.t.Setenv(softhsm.EnvConfig, filepath.Join(p.dir, "kms", "softhsm2.conf"))
	p.must("init", "--state-dir", "theirs", "--token", uri)
	var names []string
	for _, flag := range flags {
		id := strings.TrimSpace(p.must("create-key", "--state-dir", "theirs", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC",
			"--query", "KeyMetadata.KeyId", "--output", "text"))
		var report doctor.Report
		require.NoError(p.t, json.Unmarshal([]byte(p.must("doctor", "--state-dir", "theirs", "--json")), &report))
		key := slices.IndexFunc(report.Regions[0].Keys, func(k doctor.KeyReport) bool { return k.KeyID == id })
		verb, _, _ := strings.Cut(flag, " ")
		name := report.Regions[0].Keys[key].CKAID
		if verb == "--label" {
			name = id
		}
		names = append(names, flag, verb+" "+name)
	}
	return strings.NewReplacer(names...)
}

// refusedForAll are the verbs whose help says that they refuse the kinds of key that there are.
var refusedForAll = []string{"disable-key-rotation", "enable-key-rotation", "list-key-rotations", "rotate-key-on-demand"}

// shell runs a line in which $KEY is the key.
func (p *program) shell(line string) {
	p.t.Helper()
	out, err := p.command("sh", "-c", strings.ReplaceAll(line, "$KEY", p.key)).CombinedOutput()
	require.NoError(p.t, err, "%s\n%s", line, out)
}

// tryExample runs one line, a server until it is ready.
func (p *program) tryExample(verb, line string) {
	p.t.Helper()
	if verb == "serve" {
		server, err := launch(p.command("sh", "-c", "exec "+line+" "+strings.Join(anyPort, " ")))
		require.NoError(p.t, err, line)
		code, err := server.stop(syscall.SIGTERM)
		require.NoError(p.t, err, line)
		assert.Zero(p.t, code, line)
		return
	}
	out, err := p.command("sh", "-c", "("+line+"\n) > output").CombinedOutput()
	if strings.Contains(line, "libCryptoki2.so") {
		require.ErrorContains(p.t, err, "exit status 3")
		assert.Contains(p.t, string(out), `"/usr/lib/libCryptoki2.so" does not exist`)
		return
	}
	if slices.Contains(refusedForAll, verb) {
		assert.ErrorContains(p.t, err, "exit status 1", line)
		assert.Contains(p.t, string(out), "(UnsupportedOperationException)", line)
		return
	}
	assert.NoError(p.t, err, "%s\n%s", line, out)
}
