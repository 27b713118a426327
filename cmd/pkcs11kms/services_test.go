package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/server"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// What config.yaml can name is what a server can answer.
func TestServicesOfConfigAndServer(t *testing.T) {
	require.ElementsMatch(t, server.Services(), statedir.Services)
}
