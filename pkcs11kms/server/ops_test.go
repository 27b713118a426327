package server

import (
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// modelOperations returns the names of the operations of the API model, which are methods of the SDK's client.
func modelOperations() []string {
	var names []string
	for method := range reflect.TypeFor[*kms.Client]().Methods() {
		if method.Name != "Options" {
			names = append(names, method.Name)
		}
	}
	return names
}

// operationsDone are those that are not refused.
func operationsDone(t testing.TB) map[string]bool {
	done := map[string]bool{}
	for name := range operations {
		if refused[name] == nil {
			done[name] = true
		}
	}
	require.NotEmpty(t, done)
	return done
}

func TestEveryOperationOfTheModelIsKnown(t *testing.T) {
	model := modelOperations()
	require.Greater(t, len(model), 50)
	client := reflect.TypeFor[*pkcs11kms.Client]()
	for _, name := range model {
		require.NotNil(t, operations[name], "%s is missing in the table", name)
		_, done := client.MethodByName(name)
		require.Equal(t, done, operationsDone(t)[name], "%s: a method of Client is served, and nothing else", name)
	}
	for name := range operations {
		require.Contains(t, model, name)
	}
}

// The server answers what the table of operations has, as the table says, and nothing else.
func TestTheTableOfOperationsIsServed(t *testing.T) {
	rows := map[string]bool{}
	for op := range ops.All {
		if op.Service != keyManagement.signingName || op.Answer == ops.ActionOnly {
			continue
		}
		rows[op.Name] = true
		assert.NotNil(t, operations[op.Name], "%s has a row and is not served", op.Name)
		assert.Equal(t, op.Answer == ops.NotSupported, refused[op.Name] != nil, "%s: refused without a look at the key", op.Name)
	}
	for name := range operations {
		assert.True(t, rows[name], "%s is served and has no row", name)
	}
}

// Operations that are not done are refused to whoever asks in the right form, and only to those who may ask.
func TestRefusedOperations(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	for name := range refused {
		got := f.send(t, f.request(t, r.url, name, wellFormed(t, name)))
		require.Equal(t, `{"__type":"UnsupportedOperationException","message":"This service does not support the operation."}`, got.body, name)
		require.Equal(t, 400, got.StatusCode)
		requireCommonHeaders(t, got)
		unsigned := f.request(t, r.url, name, "{}")
		unsigned.Header.Del("Authorization")
		require.Contains(t, f.send(t, unsigned).body, "MissingAuthenticationTokenException", name)
	}
}
