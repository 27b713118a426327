package pkcs11kms

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// marked stands in whatever the first account has of its own, so that an answer that tells of it is seen.
const marked = "only-of-the-first"

// recordsOf are the versions of all records that an account has.
func recordsOf(t *testing.T, c *Client, account string) map[keystore.Ref]uint64 {
	t.Helper()
	all, after := map[keystore.Ref]uint64{}, keystore.Ref{}
	for {
		recs, err := c.bridge.core.Store.All(t.Context(), after, keystore.MaxPage)
		require.NoError(t, err)
		for _, rec := range recs {
			after = rec.Ref
			of := rec.Ref.Account
			if rec.Ref.Kind == keystore.KindAccessKey {
				key, err := keystore.DecodeAccessKey(rec)
				require.NoError(t, err)
				of = key.Account
			}
			if of == account {
				all[rec.Ref] = rec.Version
			}
		}
		if len(recs) < keystore.MaxPage {
			return all
		}
	}
}

// ownThings gives an account a bit of everything, and returns the names that they have.
func ownThings(t *testing.T, c *Client) (names []string) {
	t.Helper()
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/"+marked, key.KeyId)
	made := mustGrant(t, c, grantInput(key.KeyId, c, opMAC))
	user := userOf(t, c, marked, allow("arn:aws:kms:*:"+testAccount+":key/*", "kms:*"))
	role, err := c.IAM().CreatePrincipal(t.Context(), roleName(marked), iam.PrincipalOptions{
		Tags: []keystore.Tag{{Key: marked, Value: marked}}, TrustPolicy: `{"Version":"2012-10-17","Statement":{"Effect":"Allow",` +
			`"Principal":{"AWS":"` + user.caller.ARN() + `"},"Action":"sts:AssumeRole"}}`})
	require.NoError(t, err)
	access, err := c.IAM().CreateAccessKey(t.Context(), userName(marked))
	require.NoError(t, err)
	managed, err := c.IAM().CreatePolicy(t.Context(), marked, allow("arn:aws:kms:*:"+testAccount+":key/*", "kms:*"),
		iam.PolicyOptions{Path: "/"})
	require.NoError(t, err)
	require.NoError(t, c.IAM().AttachPolicy(t.Context(), userName(marked), managed.ARN))
	return []string{*key.Arn, *key.KeyId, "alias/" + marked, aliasOf(testAccount, "alias/"+marked), *made.GrantId, *made.GrantToken,
		user.caller.ARN(), user.caller.ID(), role.ARN, access.ID, managed.ARN, marked}
}

// Whatever the root of another account, or a user who may all there, calls with whatever names that an account has, no record of that
// account changes, and no answer tells of anything.
func TestNothingOfAnAccountIsAnothers(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	names := ownThings(t, c)
	before := recordsOf(t, c, testAccount)
	callers := []*Client{second, userOf(t, second, "all", allow("*", "*"))}
	quiet := func(what string, out []reflect.Value) {
		if err, _ := out[len(out)-1].Interface().(error); err != nil {
			return
		}
		for _, value := range out[:len(out)-1] {
			text := fmt.Sprintf("%+v", value)
			if value.Kind() == reflect.Pointer && !value.IsNil() {
				text = fmt.Sprintf("%+v", value.Elem())
			}
			require.NotContains(t, text, testAccount, what)
		}
	}
	for _, by := range callers {
		for _, op := range operations() {
			for _, name := range names {
				in := reflect.New(reflect.ValueOf(by).MethodByName(op).Type().In(1).Elem())
				fillAcross(op, name, names[4], c)(in.Elem())
				for i := range in.Elem().NumField() { // all that is named by the caller has the name
					field := in.Elem().Field(i)
					if slices.Contains([]string{"GranteePrincipal", "RetiringPrincipal", "GrantToken"}, in.Elem().Type().Field(i).Name) {
						field.Set(reflect.ValueOf(&name))
					}
				}
				quiet(op+" of "+name, reflect.ValueOf(by).MethodByName(op).Call([]reflect.Value{reflect.ValueOf(t.Context()), in}))
			}
		}
		eachOfIAM(by.IAM(), names, func(method string, args []reflect.Value) {
			quiet(fmt.Sprintf("%s of %v", method, args), reflect.ValueOf(by.IAM()).MethodByName(method).Call(
				append([]reflect.Value{reflect.ValueOf(t.Context())}, args...)))
		})
	}
	require.Equal(t, before, recordsOf(t, c, testAccount))
	require.NotEqual(t, map[keystore.Ref]uint64{}, before)
}

// eachOfIAM visits the methods of AWS IAM, each with many arguments: the names in the place of the first text, and of a user or role.
func eachOfIAM(c *iam.Client, names []string, visit func(method string, args []reflect.Value)) {
	of := reflect.TypeOf(c)
	for i := range of.NumMethod() {
		method := of.Method(i)
		if method.Type.NumIn() < 2 || method.Type.In(1) != reflect.TypeFor[context.Context]() {
			continue
		}
		for _, name := range names {
			for _, second := range []string{marked, "p0", "v1", allow("*", "kms:*")} {
				for _, kind := range []keystore.PrincipalType{"", keystore.PrincipalUser, keystore.PrincipalRole} {
					var args []reflect.Value
					texts := 0
					for j := 2; j < method.Type.NumIn(); j++ {
						arg := reflect.New(method.Type.In(j)).Elem()
						switch value := arg.Addr().Interface().(type) {
						case *string:
							if *value = second; texts == 0 {
								*value = name
							}
							texts++
						case *iam.PrincipalName:
							if kind != "" { // else the root
								*value = iam.PrincipalName{Type: kind, Name: marked}
							}
						case *keystore.PrincipalType:
							*value = kind
						case *keystore.AccessKeyStatus:
							*value = keystore.AccessKeyInactive
						case *iam.AssumeRoleInput:
							*value = iam.AssumeRoleInput{RoleARN: name, SessionName: "job"}
						case *iam.WebIdentityInput:
							*value = iam.WebIdentityInput{RoleARN: name, SessionName: "job", Token: "a.b.c"}
						}
						args = append(args, arg)
					}
					visit(method.Name, args)
				}
			}
		}
	}
}
