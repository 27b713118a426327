package server

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The operations of OIDC providers, in the shapes of AWS IAM.
func TestProvidersOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	const arn = "arn:aws:iam::" + testAccount + ":oidc-provider/oidc.example.org/id/1"
	must := func(result, action string, parameters ...string) {
		t.Helper()
		status, got := f.ask(t, r, action, parameters...)
		require.Equal(t, http.StatusOK, status, got)
		if result == "" {
			require.NotContains(t, got, action+"Result")
			return
		}
		begin, end := "<"+action+"Result>", "</"+action+"Result>"
		require.Contains(t, got, begin)
		text, _, _ := strings.Cut(got[strings.Index(got, begin)+len(begin):], end)
		if at := strings.Index(text, "<CreateDate>"); at >= 0 {
			text = text[:at] + text[strings.Index(text, "</CreateDate>")+len("</CreateDate>"):]
		}
		require.Equal(t, result, text)
	}
	thumbprint := strings.Repeat("0a", 20)
	must("<OpenIDConnectProviderArn>"+arn+"</OpenIDConnectProviderArn><Tags><member><Key>a</Key><Value>b</Value></member></Tags>",
		"CreateOpenIDConnectProvider", "Url", "https://oidc.example.org/id/1", "ClientIDList.member.1", "kms",
		"Tags.member.1.Key", "a", "Tags.member.1.Value", "b")
	must("", "AddClientIDToOpenIDConnectProvider", "OpenIDConnectProviderArn", arn, "ClientID", "sts")
	must("", "RemoveClientIDFromOpenIDConnectProvider", "OpenIDConnectProviderArn", arn, "ClientID", "kms")
	must("", "UpdateOpenIDConnectProviderThumbprint", "OpenIDConnectProviderArn", arn, "ThumbprintList.member.1", thumbprint)
	must("<Url>oidc.example.org/id/1</Url><ClientIDList><member>sts</member></ClientIDList><ThumbprintList><member>"+thumbprint+
		"</member></ThumbprintList><Tags><member><Key>a</Key><Value>b</Value></member></Tags>",
		"GetOpenIDConnectProvider", "OpenIDConnectProviderArn", arn)
	must("<OpenIDConnectProviderList><member><Arn>"+arn+"</Arn></member></OpenIDConnectProviderList>", "ListOpenIDConnectProviders")
	for _, tc := range [][]string{
		{"409", "CreateOpenIDConnectProvider", "Url", "https://oidc.example.org/id/1"},
		{"400", "CreateOpenIDConnectProvider", "Url", "https://oidc.example.org:8443"},
		{"400", "CreateOpenIDConnectProvider"},
		{"400", "UpdateOpenIDConnectProviderThumbprint", "OpenIDConnectProviderArn", arn, "ThumbprintList.member.1", "short"},
		{"404", "GetOpenIDConnectProvider", "OpenIDConnectProviderArn", arn + "2"},
		{"404", "DeleteOpenIDConnectProvider", "OpenIDConnectProviderArn", arn + "2"},
	} {
		status, got := f.ask(t, r, tc[1], tc[2:]...)
		require.Equal(t, tc[0], strconv.Itoa(status), "%v: %s", tc, got)
	}
	must("", "DeleteOpenIDConnectProvider", "OpenIDConnectProviderArn", arn)
	must("<OpenIDConnectProviderList></OpenIDConnectProviderList>", "ListOpenIDConnectProviders")
}
