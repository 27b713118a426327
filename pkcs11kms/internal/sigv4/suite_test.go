package sigv4_test

import (
	"bufio"
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const suite = "testdata/aws-sig-v4-test-suite"

// TestSuite runs every case of the suite that AWS published for signers. Of each case there are the signed request (.sreq)
// and its Authorization header (.authz); the canonical request and the string to sign are what a signer shows on the way,
// and a signature that fits proves them. No case is left out, but three need a word:
//
//   - get-vanilla-with-session-token: the .sreq holds the signature of another case, the .authz the right one; so the
//     header is always taken from the .authz.
//   - normalize-path/get-space: the request line holds a blank, which no HTTP parser takes, so that the target is put into
//     the parsed request.
//   - post-sts-token/post-sts-header-after: the session token is added after signing. It must be refused, and the same
//     request without the token must pass.
func TestSuite(t *testing.T) {
	cases := suiteCases(t)
	require.Len(t, cases, 34)
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sreq"), func(t *testing.T) {
			r, body := readSuiteRequest(t, file)
			if strings.HasSuffix(file, "/post-sts-header-after.sreq") {
				_, err := suiteVerifier().Verify(context.Background(), r, body)
				requireRefusal(t, err, sigv4.CodeInvalidSignature,
					"'x-amz-security-token' must be a 'SignedHeader' in the AWS Authorization.")
				r.Header.Del("X-Amz-Security-Token")
			}
			who, err := suiteVerifier().Verify(context.Background(), r, body)
			require.NoError(t, err)
			assert.Equal(t, "owner of AKIDEXAMPLE", who)

			_, err = suiteVerifier().Verify(context.Background(), r, append(body, '\n'))
			requireRefusal(t, err, sigv4.CodeInvalidSignature, mismatchText)
		})
	}
}

func suiteCases(t *testing.T) (files []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(suite, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".sreq") {
			files = append(files, filepath.ToSlash(path))
		}
		return err
	}))
	return files
}

func suiteVerifier() *sigv4.Verifier[string] {
	return &sigv4.Verifier[string]{
		Service: "service",
		Regions: []string{"us-east-1"},
		Now:     func() time.Time { return time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC) },
		Lookup:  lookup,
	}
}

func readSuiteRequest(t *testing.T, file string) (*http.Request, []byte) {
	t.Helper()
	text := readText(t, file)
	head, body, _ := strings.Cut(text, "\n\n")
	line, headers, _ := strings.Cut(head, "\n")
	target := line[strings.Index(line, " ")+1 : strings.LastIndex(line, " ")]
	if strings.Contains(target, " ") {
		line = strings.Replace(line, target, "/", 1)
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(line + "\n" + headers + "\n\n")))
	require.NoError(t, err)
	r.RequestURI = target
	r.Header.Set("Authorization", readText(t, strings.TrimSuffix(file, ".sreq")+".authz"))
	return r, []byte(body)
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}
