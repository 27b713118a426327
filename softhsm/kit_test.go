package softhsm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

var _ softhsm.TB = (testing.TB)(nil)

// recorder is a test that notes how it was ended, since a real one that fails takes this one with it.
type recorder struct {
	ended, text string
	cleanups    []func()
}

func (r *recorder) Helper()                         {}
func (r *recorder) Cleanup(f func())                { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Logf(format string, args ...any) { r.text += fmt.Sprintf(format, args...) }
func (r *recorder) Skipf(format string, args ...any) {
	r.end("skipped", fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.end("failed", fmt.Sprintf(format, args...))
}

func (r *recorder) end(how, text string) {
	r.ended, r.text = how, text
	runtime.Goexit()
}

// record asks for a token and returns when that ended, whichever way.
func record() (r *recorder, tok softhsm.TestToken) {
	r = &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tok = softhsm.NewToken(r)
	}()
	<-done
	return r, tok
}

func TestNewToken(t *testing.T) {
	tok, other := softhsm.NewToken(t), softhsm.NewToken(t)
	assert.NotEqual(t, tok.Label, other.Label)
	assert.NotEqual(t, tok.Serial, other.Serial)
	assert.False(t, tok.PIN() == other.PIN(), "two tokens have one PIN")
	assert.Equal(t, tok.ConfigFile, other.ConfigFile)
	assert.Equal(t, tok.ConfigFile, os.Getenv(softhsm.EnvConfig))

	assert.Equal(t, os.FileMode(0o600), mode(t, tok.PINFile))
	text, err := os.ReadFile(tok.PINFile)
	require.NoError(t, err)
	assert.True(t, strings.TrimSuffix(string(text), "\n") == tok.PIN(), "the file holds another PIN")
	login(t, initialize(t), tok.Label, pkcs11.CKU_USER, tok.PIN())
}

func TestPrintedTestTokenTellsNoPIN(t *testing.T) {
	tok := softhsm.NewToken(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		assert.False(t, strings.Contains(fmt.Sprintf(format, tok), tok.PIN()), format)
	}
}

func TestNewTokenIsRemovedWithItsTest(t *testing.T) {
	var dir string
	t.Run("outer", func(t *testing.T) {
		outer := softhsm.NewToken(t)
		dir = filepath.Dir(outer.ConfigFile)
		var inner softhsm.TestToken
		t.Run("inner", func(t *testing.T) {
			inner = softhsm.NewToken(t)
			assert.Len(t, labels(t, initialize(t)), 2)
		})
		assert.NoFileExists(t, inner.PINFile)
		assert.FileExists(t, outer.PINFile)
		assert.Equal(t, map[string]string{outer.Label: outer.Serial}, labels(t, initialize(t)))
		entries, err := os.ReadDir(filepath.Join(dir, "tokens"))
		require.NoError(t, err)
		assert.Len(t, entries, 1)
	})
	assert.NoDirExists(t, dir, "the last token takes the directory with it")

	again := softhsm.NewToken(t)
	assert.Equal(t, dir, filepath.Dir(again.ConfigFile), "a module that is still initialised knows this path only")
	assert.Equal(t, os.FileMode(0o700), mode(t, dir))
}

func TestNewTokenWhileTheModuleStaysInitialised(t *testing.T) {
	var ctx *pkcs11.Ctx
	t.Run("first", func(t *testing.T) {
		first := softhsm.NewToken(t)
		path := first.Module
		ctx = pkcs11.New(path)
		require.NoError(t, ctx.Initialize())
	})
	if ctx == nil {
		t.Skip("the subtest says why")
	}
	t.Cleanup(func() { require.NoError(t, ctx.Finalize()) })
	assert.Empty(t, labels(t, ctx))
	second := softhsm.NewToken(t)
	assert.Equal(t, map[string]string{second.Label: second.Serial}, labels(t, ctx))
	login(t, ctx, second.Label, pkcs11.CKU_USER, second.PIN())
}

func TestNewTokenInParallelTests(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			a, b := softhsm.NewToken(t), softhsm.NewToken(t)
			assert.NotEqual(t, a.Serial, b.Serial)
			assert.FileExists(t, a.PINFile)
			assert.FileExists(t, b.PINFile)
		})
	}
}

func TestNewTokenWithoutSoftHSM(t *testing.T) {
	module := filepath.Join(t.TempDir(), "missing.so")
	t.Setenv(softhsm.EnvModule, module)
	for _, c := range []struct{ require, want string }{
		{"", "skipped"},
		{"opensc,awscli", "skipped"},
		{"softhsm2", "skipped"},
		{"softhsm", "failed"},
		{"opensc, softhsm", "failed"},
		{"all", "failed"},
	} {
		t.Setenv(softhsm.EnvRequire, c.require)
		r, _ := record()
		assert.Equal(t, c.want, r.ended, c.require)
		assert.Contains(t, r.text, module)
		assert.Contains(t, r.text, "apt-get install softhsm2")
		assert.Empty(t, r.cleanups)
	}
}

func TestNewTokenInAForeignConfiguration(t *testing.T) {
	foreign := setup(t)
	require.NoError(t, foreign.Use())
	initialize(t)
	r, _ := record()
	assert.Equal(t, "failed", r.ended)
	assert.Contains(t, r.text, softhsm.ErrOtherConfiguration.Error())
	assert.Contains(t, r.text, foreign.File)
	assert.Equal(t, foreign.File, os.Getenv(softhsm.EnvConfig))
}
