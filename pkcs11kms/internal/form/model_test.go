package form_test

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// inputs are the inputs of the SDK's operations by the operation's name.
func inputs() map[string]reflect.Type {
	all := map[string]reflect.Type{}
	for method := range reflect.TypeFor[*kms.Client]().Methods() {
		if method.Name != "Options" {
			all[method.Name] = method.Type.In(2).Elem()
		}
	}
	return all
}

// The tables name every member of every input of the SDK, and no other, and Check can read each.
func TestTablesHaveTheMembersOfTheSDK(t *testing.T) {
	require.Greater(t, len(inputs()), 50)
	for op, input := range inputs() {
		members, ok := form.Members(op)
		require.True(t, ok, op)
		var have, want []string
		for _, m := range members {
			have = append(have, m.Name)
		}
		for _, field := range reflect.VisibleFields(input) {
			if field.IsExported() {
				want = append(want, field.Name)
			}
		}
		assert.ElementsMatch(t, want, have, op)
		form.Check(reflect.New(input).Interface())
	}
}

type noNetwork struct{}

func (noNetwork) Do(*http.Request) (*http.Response, error) { return nil, errors.New("no network") }

// What is required is what the SDK's own client asks for before it sends anything.
func TestTablesRequireWhatTheSDKRequires(t *testing.T) {
	client := kms.New(kms.Options{Region: "us-east-1", HTTPClient: noNetwork{}, Retryer: aws.NopRetryer{},
		Credentials: aws.AnonymousCredentials{}})
	for op, input := range inputs() {
		out := reflect.ValueOf(client).MethodByName(op).Call([]reflect.Value{reflect.ValueOf(context.Background()), reflect.New(input)})
		err, _ := out[1].Interface().(error)
		require.Error(t, err)
		var missing smithy.InvalidParamsError
		var theirs, ours []string
		if errors.As(err, &missing) {
			for _, err := range missing.Errs() {
				var param smithy.InvalidParamError
				require.ErrorAs(t, err, &param)
				_, name, _ := strings.Cut(param.Field(), ".")
				theirs = append(theirs, name)
			}
		}
		members, _ := form.Members(op)
		for _, m := range members {
			if m.Required {
				ours = append(ours, m.Name)
			}
		}
		assert.ElementsMatch(t, theirs, ours, op)
	}
}

// shape is a shape of botocore's model.
type shape struct {
	Type      string
	Min, Max  int
	Pattern   string
	Enum      []string
	Sensitive bool
	Required  []string
	Members   map[string]struct{ Shape string }
	Member    struct{ Shape string }
}

type model struct {
	Operations map[string]struct{ Input struct{ Shape string } }
	Shapes     map[string]shape
}

// The tables say what the models say that are installed here: Debian's botocore, the copy in the aws CLI, and that of another
// Python in PATH. They may be older than the tables: without some operations, members and values of enumerations.
func TestTablesSayWhatTheServiceModelSays(t *testing.T) {
	models := installedModels(t)
	if required := os.Getenv("PKCS11KMS_REQUIRE"); len(models) == 0 && required != "all" && !strings.Contains(required, "boto3") {
		t.Skip("no service model is here: it comes with python3-botocore")
	}
	require.NotEmpty(t, models, "PKCS11KMS_REQUIRE: python3-botocore is missing")
	for path, m := range models {
		compared := 0
		for op, operation := range m.Operations {
			input, known := inputs()[op]
			require.True(t, known, "%s has an operation %s", path, op)
			if operation.Input.Shape != "" {
				compared += m.compare(t, path, op, operation.Input.Shape, input)
			}
		}
		t.Logf("%s: %d members of %d operations", path, compared, len(m.Operations))
		assert.Greater(t, compared, 150, path)
	}
}

// madeOptional are members that older models require.
var madeOptional = []string{"GranteePrincipal", "RetiringPrincipal", "PolicyName", "CiphertextBlob", "CloudHsmClusterId",
	"TrustAnchorCertificate", "KeyStorePassword"}

// olderPatterns are what older models have in the place of a pattern.
var olderPatterns = map[string]string{
	"CloudHsmClusterId":              "",
	"XksProxyVpcEndpointServiceName": `^com\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$`,
}

func (m *model) compare(t *testing.T, path, name, structure string, of reflect.Type) (compared int) {
	members, ok := form.Members(name)
	require.True(t, ok, "%s: %s", path, name)
	theirs := m.Shapes[structure]
	for member, target := range theirs.Members {
		i := slices.IndexFunc(members, func(ours form.Member) bool { return ours.Name == member })
		require.GreaterOrEqual(t, i, 0, "%s: %s.%s", path, name, member)
		if required := slices.Contains(theirs.Required, member); required != members[i].Required {
			assert.True(t, required && slices.Contains(madeOptional, member), "%s: is %s.%s required?", path, name, member)
		}
		field, _ := of.FieldByName(member)
		compared += 1 + m.compareRule(t, path, name+"."+member, members[i].Rule, target.Shape, field.Type)
	}
	return compared
}

func (m *model) compareRule(t *testing.T, path, where string, r form.Rule, name string, of reflect.Type) int {
	theirs := m.Shapes[name]
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	assert.Equal(t, [2]int{theirs.Min, theirs.Max}, [2]int{r.Least, r.Most}, "%s: range of %s", path, where)
	member := where[strings.LastIndexByte(where, '.')+1:]
	if older, ok := olderPatterns[member]; !ok || older != theirs.Pattern {
		assert.Equal(t, theirs.Pattern, r.Pattern, "%s: pattern of %s", path, where)
	}
	if theirs.Sensitive && theirs.Type == "string" {
		assert.True(t, r.Hidden, "%s: %s is sensitive", path, where)
	}
	for _, value := range theirs.Enum {
		assert.Contains(t, enumOf(t, of), value, "%s: %s", path, where)
	}
	switch theirs.Type {
	case "structure":
		return m.compare(t, path, cmp.Or(of.Name(), name), name, of)
	case "list":
		var each form.Rule
		if r.Each != nil {
			each = *r.Each
		}
		return m.compareRule(t, path, where, each, theirs.Member.Shape, of.Elem())
	}
	return 0
}

func enumOf(t *testing.T, of reflect.Type) (values []string) {
	list := reflect.Zero(of).MethodByName("Values")
	require.True(t, list.IsValid(), "%s is no enumeration", of)
	for _, value := range list.Call(nil)[0].Seq2() {
		values = append(values, value.String())
	}
	return values
}

// installedModels finds and reads the models of this machine.
func installedModels(t *testing.T) map[string]*model {
	dirs := []string{"/usr/lib/python3/dist-packages/botocore", "/usr/lib/python3/dist-packages/awscli/botocore"}
	if out, err := exec.Command("python3", "-c", "import botocore; print(botocore.__path__[0])").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	models := map[string]*model{}
	for _, dir := range dirs {
		paths, err := filepath.Glob(filepath.Join(dir, "data/kms/*/service-2.json*"))
		require.NoError(t, err)
		for _, path := range paths {
			models[path] = readModel(t, path)
		}
	}
	return models
}

func readModel(t *testing.T, path string) *model {
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { assert.NoError(t, file.Close()) }()
	var r io.Reader = file
	if strings.HasSuffix(path, ".gz") {
		r, err = gzip.NewReader(file)
		require.NoError(t, err)
	}
	m := &model{}
	require.NoError(t, json.NewDecoder(r).Decode(m), path)
	return m
}
