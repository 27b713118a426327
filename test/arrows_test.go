package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/pkcs11kms/bridge"

// layers are the packages of the architecture from the bottom up. A package imports only packages of layers below its own,
// not even its tests import from above, and among those below only what arrows names.
var layers = [][]string{
	{"test/disk", "test/halfmade"},
	{"keystore", "softhsm", "pkcs11kms/policy", "pkcs11kms/audit", "pkcs11kms/internal/apierr", "pkcs11kms/internal/awsjson",
		"pkcs11kms/internal/awsquery",
		"pkcs11kms/internal/crash", "pkcs11kms/internal/envelope",
		"pkcs11kms/internal/fairshare", "pkcs11kms/internal/form",
		"pkcs11kms/internal/keyid", "pkcs11kms/internal/ops", "pkcs11kms/internal/pubkey", "pkcs11kms/internal/sigv4",
		"pkcs11kms/internal/strictjson", "test/faultp11"},
	{"keystore/sqlite", "keystore/etcd", "keystore/keystoretest", "test/contention", "pkcs11kms/internal/token", "pkcs11kms/internal/records",
		"pkcs11kms/internal/guard", "pkcs11kms/jwt"},
	{"pkcs11kms/internal/sealed"},
	{"pkcs11kms/internal/lastuse", "pkcs11kms/internal/keyring"},
	{"pkcs11kms/iam", "pkcs11kms/internal/refcount"},
	{"pkcs11kms/internal/core"},
	{"pkcs11kms"},
	{"pkcs11kms/server", "pkcs11kms/console", "pkcs11kms/statedir", "pkcs11kms/doctor"},
	{"pkcs11kms/kmstest", "pkcs11kms/loadtest"},
	{"cmd/pkcs11kms"},
	{"test"},
}

// consumers are packages that programs use which ask the service, and that the service uses as well: the tests of theirs that are packages
// of their own ask a server, which is above them.
var consumers = []string{"pkcs11kms/jwt"}

// arrows are the module's own packages that a package may import, tests aside. A package of a new name states its arrows
// here and its place in layers.
var arrows = map[string][]string{
	"keystore":                      {},
	"keystore/sqlite":               {"keystore"},
	"keystore/etcd":                 {"keystore"},
	"keystore/keystoretest":         {"keystore"},
	"test/contention":               {"keystore"},
	"test/disk":                     {},
	"test/halfmade":                 {},
	"test/faultp11":                 {},
	"softhsm":                       {},
	"pkcs11kms/policy":              {},
	"pkcs11kms/audit":               {},
	"pkcs11kms/internal/apierr":     {},
	"pkcs11kms/internal/awsjson":    {},
	"pkcs11kms/internal/awsquery":   {},
	"pkcs11kms/internal/crash":      {},
	"pkcs11kms/internal/envelope":   {},
	"pkcs11kms/internal/fairshare":  {},
	"pkcs11kms/internal/form":       {},
	"pkcs11kms/internal/keyid":      {},
	"pkcs11kms/internal/ops":        {},
	"pkcs11kms/internal/sigv4":      {},
	"pkcs11kms/internal/pubkey":     {},
	"pkcs11kms/internal/strictjson": {},
	"pkcs11kms/internal/token":      {"pkcs11kms/internal/crash", "pkcs11kms/internal/envelope", "pkcs11kms/internal/pubkey"},
	"pkcs11kms/internal/records":    {"keystore"},
	"pkcs11kms/internal/sealed":     {"keystore", "pkcs11kms/audit"},
	"pkcs11kms/internal/guard":      {"keystore", "pkcs11kms/audit", "pkcs11kms/internal/ops"},
	"pkcs11kms/internal/keyring": {"keystore", "pkcs11kms/audit", "pkcs11kms/internal/apierr", "pkcs11kms/internal/crash",
		"pkcs11kms/internal/envelope", "pkcs11kms/internal/pubkey",
		"pkcs11kms/internal/records", "pkcs11kms/internal/sealed", "pkcs11kms/internal/token"},
	"pkcs11kms/internal/core": {"keystore", "pkcs11kms/audit", "pkcs11kms/iam", "pkcs11kms/internal/keyring",
		"pkcs11kms/internal/lastuse", "pkcs11kms/internal/records", "pkcs11kms/internal/sealed"},
	"pkcs11kms/internal/refcount": {"keystore", "pkcs11kms/internal/keyring", "pkcs11kms/internal/records"},
	"pkcs11kms/internal/lastuse":  {"keystore", "pkcs11kms/internal/records"},
	"pkcs11kms/iam": {"keystore", "pkcs11kms/policy", "pkcs11kms/audit", "pkcs11kms/internal/apierr",
		"pkcs11kms/internal/form", "pkcs11kms/internal/guard",
		"pkcs11kms/internal/lastuse", "pkcs11kms/internal/ops", "pkcs11kms/internal/records", "pkcs11kms/internal/sigv4",
		"pkcs11kms/jwt"}, // and no token
	"pkcs11kms": {"keystore", "pkcs11kms/iam", "pkcs11kms/policy", "pkcs11kms/audit", "pkcs11kms/internal/apierr", "pkcs11kms/internal/form",
		"pkcs11kms/internal/envelope", "pkcs11kms/internal/keyid", "pkcs11kms/internal/ops", "pkcs11kms/internal/pubkey",
		"pkcs11kms/internal/sigv4", "pkcs11kms/internal/strictjson", "pkcs11kms/internal/token",
		"pkcs11kms/internal/records", "pkcs11kms/internal/guard", "pkcs11kms/internal/keyring", "pkcs11kms/internal/lastuse",
		"pkcs11kms/internal/core"},
	"pkcs11kms/server": {"keystore", "pkcs11kms", "pkcs11kms/iam", "pkcs11kms/audit", "pkcs11kms/internal/awsjson",
		"pkcs11kms/internal/awsquery",
		"pkcs11kms/internal/fairshare", "pkcs11kms/internal/form", "pkcs11kms/internal/keyid", "pkcs11kms/internal/ops",
		"pkcs11kms/internal/sigv4"},
	"pkcs11kms/console":  {"pkcs11kms"},
	"pkcs11kms/jwt":      {"pkcs11kms/internal/pubkey", "pkcs11kms/internal/strictjson"}, // and no token: consumers need no cgo
	"pkcs11kms/loadtest": {"pkcs11kms/internal/keyring", "pkcs11kms/internal/pubkey"},    // any client of the API
	"pkcs11kms/doctor": {"keystore", "pkcs11kms", "pkcs11kms/audit", "pkcs11kms/policy", "pkcs11kms/internal/core",
		"pkcs11kms/internal/keyring", "pkcs11kms/internal/ops", "pkcs11kms/internal/pubkey", "pkcs11kms/internal/records",
		"pkcs11kms/internal/refcount",
		"pkcs11kms/internal/sealed", "pkcs11kms/internal/token"},
	"pkcs11kms/statedir": {"keystore", "keystore/sqlite", "softhsm", "pkcs11kms", "pkcs11kms/audit", "pkcs11kms/internal/core",
		"pkcs11kms/internal/crash", "pkcs11kms/internal/keyring", "pkcs11kms/internal/ops", "pkcs11kms/internal/sealed",
		"pkcs11kms/internal/token"},
	"pkcs11kms/kmstest": {"keystore", "keystore/sqlite", "softhsm", "pkcs11kms", "pkcs11kms/audit", "pkcs11kms/iam", "pkcs11kms/server",
		"pkcs11kms/statedir"},
	"cmd/pkcs11kms": {"keystore", "keystore/sqlite", "keystore/etcd", "softhsm", "pkcs11kms", "pkcs11kms/audit", "pkcs11kms/iam",
		"pkcs11kms/policy",
		"pkcs11kms/server", "pkcs11kms/console", "pkcs11kms/jwt", "pkcs11kms/statedir", "pkcs11kms/doctor",
		"pkcs11kms/loadtest"},
	"test": {}, // and the packages below it
}

// owners are foreign packages, and those below them, that only some packages may import, tests aside.
var owners = map[string][]string{
	"github.com/miekg/pkcs11":          {"pkcs11kms/internal/token", "softhsm"},
	"github.com/ThalesIgnite/crypto11": {"cmd/pkcs11kms"},
	"github.com/mattn/go-sqlite3":      {"keystore/sqlite"},
	"github.com/decred":                {"pkcs11kms/internal/pubkey"},
	"github.com/HdrHistogram":          {"pkcs11kms/loadtest"},
	"database/sql":                     {"keystore/sqlite"},
	"go.yaml.in/yaml":                  {"pkcs11kms/statedir", "test/mutants"},
	"github.com/aws": {"pkcs11kms", "pkcs11kms/internal/apierr", "pkcs11kms/internal/awsjson", "pkcs11kms/internal/form",
		"pkcs11kms/internal/keyring", "pkcs11kms/iam", "pkcs11kms/doctor", "pkcs11kms/server", "pkcs11kms/console",
		"pkcs11kms/kmstest", "pkcs11kms/jwt", "pkcs11kms/loadtest", "cmd/pkcs11kms", "test/contention"},
	"github.com/golang-jwt":       {"pkcs11kms/jwt", "cmd/pkcs11kms"}, // options about claims are its own
	"github.com/spf13":            {"cmd/pkcs11kms"},
	"net/http":                    {"pkcs11kms/internal/sigv4", "pkcs11kms/server", "pkcs11kms/console", "pkcs11kms/kmstest", "cmd/pkcs11kms"},
	"testing":                     {"keystore/keystoretest", "test/disk"},
	"github.com/stretchr/testify": {"keystore/keystoretest"},
}

// serving are the names of net/http that make a program a server. Only servers do.
var (
	serving = []string{"Server", "Serve", "ServeTLS", "ListenAndServe", "ListenAndServeTLS"}
	servers = []string{"pkcs11kms/server", "pkcs11kms/console"}
)

// listed is a package as go list describes it.
type listed struct {
	Dir, ImportPath                          string
	Standard                                 bool
	GoFiles, CgoFiles, IgnoredGoFiles        []string
	Imports, Deps, TestImports, XTestImports []string
}

// goList lists packages of the module.
func goList(t *testing.T, args ...string) map[string]listed {
	t.Helper()
	cmd := exec.Command(tool(t, "go", "go"), append([]string{"list", "-json"}, args...)...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", &stderr)
	found := map[string]listed{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return found
		}
		require.NoError(t, err)
		name, own := strings.CutPrefix(p.ImportPath, module+"/")
		if !own {
			name = p.ImportPath
		}
		found[name] = p
	}
}

// own returns the module's packages among imports.
func own(imports []string) []string {
	found := []string{}
	for _, imported := range imports {
		if name, ok := strings.CutPrefix(imported, module+"/"); ok {
			found = append(found, name)
		}
	}
	return found
}

// placeOf is the name under which layers and arrows hold a package.
func placeOf(name string) string {
	if _, listed := arrows[name]; !listed && strings.HasPrefix(name, "test/") {
		return "test"
	}
	return name
}

func layerOf(name string) int {
	name = placeOf(name)
	return slices.IndexFunc(layers, func(layer []string) bool { return slices.Contains(layer, name) })
}

// sources parses the files of a package, tests aside and files for other systems and tags included.
func sources(t *testing.T, p listed) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files[name] = parsed
	}
	return files
}

// sourceImports returns what each of these files imports.
func sourceImports(t *testing.T, p listed) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	for name, file := range sources(t, p) {
		imports[name] = nil
		for _, spec := range file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			imports[name] = append(imports[name], path)
		}
	}
	return imports
}

func TestArrowsPointDown(t *testing.T) {
	for name, p := range goList(t, "./...") {
		allowed := arrows[placeOf(name)]
		if allowed == nil || layerOf(name) < 0 {
			t.Errorf("%s is new: state its arrows and its layer", name)
			continue
		}
		for file, imports := range sourceImports(t, p) {
			for _, used := range own(imports) {
				assert.Contains(t, allowed, used, "%s/%s imports it", name, file)
				assert.Less(t, layerOf(used), layerOf(name), "%s/%s imports %s, which is not below it", name, file, used)
			}
		}
		tests := p.TestImports
		if !slices.Contains(consumers, placeOf(name)) {
			tests = slices.Concat(tests, p.XTestImports)
		}
		for _, used := range own(tests) {
			if used != name {
				assert.LessOrEqual(t, layerOf(used), layerOf(name), "a test of %s imports %s from above", name, used)
			}
		}
	}
}

func TestForeignPackagesHaveTheirPlace(t *testing.T) {
	for name, p := range goList(t, "./...") {
		for file, imports := range sourceImports(t, p) {
			for _, imported := range imports {
				for foreign, allowed := range owners {
					if imported == foreign || strings.HasPrefix(imported, foreign+"/") {
						assert.Contains(t, allowed, name, "%s/%s imports %s", name, file, imported)
					}
				}
			}
		}
	}
}

func TestHTTPServersHaveTheirPlace(t *testing.T) {
	for name, p := range goList(t, "./...") {
		if slices.Contains(servers, name) {
			continue
		}
		for file, parsed := range sources(t, p) {
			local := nameOf(parsed, "net/http")
			ast.Inspect(parsed, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
						assert.NotContains(t, serving, sel.Sel.Name, "%s/%s serves HTTP", name, file)
					}
				}
				return true
			})
		}
	}
}

// nameOf returns what a file calls a package, or nothing when it does not import it.
func nameOf(file *ast.File, imported string) string {
	for _, spec := range file.Imports {
		if spec.Path.Value != strconv.Quote(imported) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

func TestOneFileKnowsCrypto11(t *testing.T) {
	var files []string
	for file, imports := range sourceImports(t, goList(t, "./cmd/pkcs11kms")["cmd/pkcs11kms"]) {
		if slices.Contains(imports, "github.com/ThalesIgnite/crypto11") {
			files = append(files, file)
		}
	}
	assert.Len(t, files, 1, "the files of cmd/pkcs11kms that import crypto11: %v", files)
}

// TestKeystoreNeedsNothing: whoever writes another store takes no driver, and no module at all, along with the contract.
func TestKeystoreNeedsNothing(t *testing.T) {
	for name, p := range goList(t, "-deps", "./keystore") {
		assert.True(t, p.Standard || name == "keystore", "keystore depends on %s", name)
	}
}

// TestLibraryLinksNoStateDirectory: who brings a store and a token links neither the files that a state directory is made of nor
// their drivers.
func TestLibraryLinksNoStateDirectory(t *testing.T) {
	unlinked := []string{"go.yaml.in/yaml/v3", "softhsm", "keystore/sqlite", "github.com/mattn/go-sqlite3", "pkcs11kms/statedir"}
	for _, library := range []string{"pkcs11kms", "pkcs11kms/server", "pkcs11kms/jwt"} {
		linked := goList(t, "-deps", "./"+library)
		require.Contains(t, linked, library)
		for name := range linked {
			assert.NotContains(t, unlinked, name, "%s links it", library)
		}
	}
}

// TestBinaryLinksNoTestCode: the kits for tests take small interfaces so that no program carries package testing.
func TestBinaryLinksNoTestCode(t *testing.T) {
	linked := goList(t, "-deps", "./cmd/pkcs11kms")
	require.Contains(t, linked, "pkcs11kms/internal/token")
	for name := range linked {
		assert.False(t, strings.HasPrefix(name, "test") || strings.Contains(name, "testify") || name == "keystore/keystoretest",
			"cmd/pkcs11kms links %s", name)
	}
}
