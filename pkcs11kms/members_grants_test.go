package pkcs11kms

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// createGrant shows the members of CreateGrant.
func (r *memberRig) createGrant() map[string]func(*testing.T) {
	create := func(t *testing.T, change func(*kms.CreateGrantInput)) (types.GrantListEntry, error) {
		in := grantInput(r.key.KeyId, r.c, opMAC)
		change(in)
		out, err := r.c.CreateGrant(t.Context(), in)
		if err != nil {
			return types.GrantListEntry{}, err
		}
		return grantsOn(t, r.c, in.KeyId)[*out.GrantId], nil
	}
	shown := func(change func(*kms.CreateGrantInput), see func(*testing.T, types.GrantListEntry)) func(*testing.T) {
		return func(t *testing.T) {
			entry, err := create(t, change)
			require.NoError(t, err)
			see(t, entry)
		}
	}
	refused := func(change func(*kms.CreateGrantInput)) func(*testing.T) error {
		return func(t *testing.T) error { _, err := create(t, change); return err }
	}
	service := ptr("rds.amazonaws.com")
	return map[string]func(*testing.T){
		"KeyId": shown(func(in *kms.CreateGrantInput) { in.KeyId = r.other.Arn },
			func(t *testing.T, e types.GrantListEntry) { require.Equal(t, r.other.Arn, e.KeyId) }),
		"GranteePrincipal": func(t *testing.T) {
			someone := ptr(as(t, r.c, userName("grantee")).caller.ARN())
			shown(func(in *kms.CreateGrantInput) { in.GranteePrincipal = someone },
				func(t *testing.T, e types.GrantListEntry) { require.Equal(t, someone, e.GranteePrincipal) })(t)
		},
		"RetiringPrincipal": shown(func(in *kms.CreateGrantInput) { in.RetiringPrincipal = in.GranteePrincipal },
			func(t *testing.T, e types.GrantListEntry) { require.Equal(t, e.GranteePrincipal, e.RetiringPrincipal) }),
		"Operations": shown(func(in *kms.CreateGrantInput) { in.Operations = []types.GrantOperation{opVerify, opMAC} },
			func(t *testing.T, e types.GrantListEntry) {
				require.Equal(t, []types.GrantOperation{opMAC, opVerify}, e.Operations)
			}),
		"Constraints": shown(func(in *kms.CreateGrantInput) {
			in.Constraints = &types.GrantConstraints{SourceArn: ptr("arn:aws:sqs:us-west-2:111122223333:q")}
		}, func(t *testing.T, e types.GrantListEntry) {
			require.Equal(t, "arn:aws:sqs:us-west-2:111122223333:q", *e.Constraints.SourceArn)
		}),
		"Name": shown(func(in *kms.CreateGrantInput) { in.Name = ptr("it") },
			func(t *testing.T, e types.GrantListEntry) { require.Equal(t, "it", *e.Name) }),
		"GrantTokens": fails[*types.InvalidGrantTokenException](refused(func(in *kms.CreateGrantInput) { in.GrantTokens = []string{"t"} })),
		"DryRun":      fails[*types.DryRunOperationException](refused(func(in *kms.CreateGrantInput) { in.DryRun = aws.Bool(true) })),
		"GranteeServicePrincipal": fails[*types.UnsupportedOperationException](refused(func(in *kms.CreateGrantInput) {
			in.GranteePrincipal, in.GranteeServicePrincipal = nil, service
		})),
		"RetiringServicePrincipal": fails[*types.UnsupportedOperationException](refused(func(in *kms.CreateGrantInput) {
			in.RetiringServicePrincipal = service
		})),
	}
}

// grants shows the members of the other operations on grants; what picks some of them is shown by TestListsOfGrants as well.
func (r *memberRig) grants() map[string]map[string]func(*testing.T) {
	type shown = map[string]func(*testing.T)
	list := func(change func(*kms.ListGrantsInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.ListGrantsInput{KeyId: r.signing.KeyId}
			change(in)
			out, err := r.c.ListGrants(t.Context(), in)
			if err == nil {
				require.Equal(t, &kms.ListGrantsOutput{Grants: []types.GrantListEntry{}}, out)
			}
			return err
		}
	}
	retirable := func(in kms.ListRetirableGrantsInput) func(*testing.T) error {
		return func(t *testing.T) error {
			out, err := r.c.ListRetirableGrants(t.Context(), &in)
			if err == nil {
				require.Equal(t, &kms.ListRetirableGrantsOutput{Grants: []types.GrantListEntry{}}, out)
			}
			return err
		}
	}
	retire := func(in kms.RetireGrantInput) func(*testing.T) error {
		return func(t *testing.T) error { _, err := r.c.RetireGrant(t.Context(), &in); return err }
	}
	revoke := func(in kms.RevokeGrantInput) func(*testing.T) error {
		return func(t *testing.T) error { _, err := r.c.RevokeGrant(t.Context(), &in); return err }
	}
	invalid := func(call func(*testing.T) error, where string) func(*testing.T) {
		return func(t *testing.T) {
			require.ErrorContains(t, call(t), "ValidationException: 1 validation error detected: Value")
			require.ErrorContains(t, call(t), "at '"+where+"'")
		}
	}
	someone, service := ptr("arn:aws:iam::111122223333:role/someone"), ptr("rds.amazonaws.com")
	return map[string]map[string]func(*testing.T){
		"CreateGrant": r.createGrant(),
		"ListGrants": shown{
			"KeyId":            fails[*types.NotFoundException](list(func(in *kms.ListGrantsInput) { in.KeyId = ptr(unknownID) })),
			"GrantId":          invalid(list(func(in *kms.ListGrantsInput) { in.GrantId = ptr(strings.Repeat("g", 129)) }), "grantId"),
			"GranteePrincipal": invalid(list(func(in *kms.ListGrantsInput) { in.GranteePrincipal = ptr("a b") }), "granteePrincipal"),
			"GranteeServicePrincipal": invalid(list(func(in *kms.ListGrantsInput) { in.GranteeServicePrincipal = ptr("rds") }),
				"granteeServicePrincipal"),
			"Limit": func(t *testing.T) {
				invalid(list(func(in *kms.ListGrantsInput) { in.Limit = aws.Int32(0) }), "limit")(t)
				require.NoError(t, list(func(in *kms.ListGrantsInput) {
					in.Limit, in.GrantId, in.GranteePrincipal, in.GranteeServicePrincipal = aws.Int32(1000), ptr("g"), someone, service
				})(t))
			},
			"Marker": fails[*types.InvalidMarkerException](list(func(in *kms.ListGrantsInput) { in.Marker = ptr("x") })),
		},
		"ListRetirableGrants": shown{
			"Limit":  invalid(retirable(kms.ListRetirableGrantsInput{RetiringPrincipal: someone, Limit: aws.Int32(1001)}), "limit"),
			"Marker": fails[*types.InvalidMarkerException](retirable(kms.ListRetirableGrantsInput{RetiringPrincipal: someone, Marker: ptr("x")})),
			"RetiringPrincipal": func(t *testing.T) {
				require.NoError(t, retirable(kms.ListRetirableGrantsInput{RetiringPrincipal: someone})(t))
				invalid(retirable(kms.ListRetirableGrantsInput{}), "retiringPrincipal")(t)
			},
			"RetiringServicePrincipal": func(t *testing.T) {
				require.NoError(t, retirable(kms.ListRetirableGrantsInput{RetiringServicePrincipal: service})(t))
				both := retirable(kms.ListRetirableGrantsInput{RetiringPrincipal: someone, RetiringServicePrincipal: service})
				requireAPIError(t, both(t), "ValidationException", "Specify either RetiringPrincipal or RetiringServicePrincipal, not both.")
			},
		},
		"RetireGrant": shown{
			"GrantToken": fails[*types.InvalidGrantTokenException](retire(kms.RetireGrantInput{
				GrantToken: ptr("t"), KeyId: r.key.KeyId, GrantId: ptr("g")})),
			"KeyId": func(t *testing.T) {
				err := retire(kms.RetireGrantInput{KeyId: ptr(unknownID), GrantId: ptr("g")})(t)
				requireAPIError(t, err, "NotFoundException", "Key '"+arnOf(unknownID)+"' does not exist")
				requireAPIError(t, retire(kms.RetireGrantInput{GrantId: ptr("g")})(t), "ValidationException",
					"Specify either GrantToken, or KeyId and GrantId.")
			},
			"GrantId": func(t *testing.T) {
				err := retire(kms.RetireGrantInput{KeyId: r.key.Arn, GrantId: ptr("g")})(t)
				requireAPIError(t, err, "NotFoundException", "Grant ID g not found")
				requireAPIError(t, retire(kms.RetireGrantInput{KeyId: r.key.Arn})(t), "ValidationException",
					"Specify either GrantToken, or KeyId and GrantId.")
			},
			"DryRun": fails[*types.NotFoundException](retire(kms.RetireGrantInput{KeyId: r.key.Arn, GrantId: ptr("g"), DryRun: aws.Bool(true)})),
		},
		"RevokeGrant": shown{
			"KeyId": func(t *testing.T) {
				err := revoke(kms.RevokeGrantInput{KeyId: ptr(unknownID), GrantId: ptr("g")})(t)
				requireAPIError(t, err, "NotFoundException", "Key '"+arnOf(unknownID)+"' does not exist")
			},
			"GrantId": func(t *testing.T) {
				requireAPIError(t, revoke(kms.RevokeGrantInput{KeyId: r.key.KeyId, GrantId: ptr("g")})(t), "NotFoundException", "Grant ID g not found")
				invalid(revoke(kms.RevokeGrantInput{KeyId: r.key.KeyId}), "grantId")(t)
			},
			"DryRun": fails[*types.NotFoundException](revoke(kms.RevokeGrantInput{KeyId: r.key.KeyId, GrantId: ptr("g"), DryRun: aws.Bool(true)})),
		},
	}
}

// What a grant token is worth is told to those only who may retire grants.
func TestRetireGrantByTokenAsksForItsPermission(t *testing.T) {
	c := newClient(t)
	retire := func(who *Client) error {
		_, err := who.RetireGrant(t.Context(), &kms.RetireGrantInput{GrantToken: ptr("token")})
		return err
	}
	nobody, err := c.bridge.Client("")
	require.NoError(t, err)
	require.ErrorContains(t, retire(nobody),
		"AccessDeniedException: User: anonymous is not authorized to perform: kms:RetireGrant on resource: *")
	other := as(t, c, userName("other"), allow("*", "kms:RevokeGrant"))
	require.ErrorContains(t, retire(other), "AccessDeniedException")
	allowed := as(t, c, userName("allowed"), allow("*", "kms:RetireGrant"))
	requireAPIError(t, retire(allowed), "InvalidGrantTokenException", "The grant token is not valid.")
	requireAPIError(t, retire(c), "InvalidGrantTokenException", "The grant token is not valid.")
}
