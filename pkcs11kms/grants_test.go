package pkcs11kms

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// The operations of a grant, by short names.
const (
	opMAC      = types.GrantOperationGenerateMac
	opVerify   = types.GrantOperationVerifyMac
	opDescribe = types.GrantOperationDescribeKey
	opGrant    = types.GrantOperationCreateGrant
	opRetire   = types.GrantOperationRetireGrant
)

// grantInput asks for a grant on a key to whom a client acts for.
func grantInput(keyID *string, to *Client, operations ...types.GrantOperation) *kms.CreateGrantInput {
	return &kms.CreateGrantInput{KeyId: keyID, GranteePrincipal: ptr(to.caller.ARN()), Operations: operations}
}

// mustGrant makes a grant.
func mustGrant(t testing.TB, c *Client, in *kms.CreateGrantInput) *kms.CreateGrantOutput {
	t.Helper()
	out, err := c.CreateGrant(t.Context(), in)
	require.NoError(t, err)
	return out
}

// grantsOn are the grants on a key, by id.
func grantsOn(t testing.TB, c *Client, keyID *string) map[string]types.GrantListEntry {
	t.Helper()
	all := map[string]types.GrantListEntry{}
	in := &kms.ListGrantsInput{KeyId: keyID, Limit: aws.Int32(100)}
	for {
		out, err := c.ListGrants(t.Context(), in)
		require.NoError(t, err)
		for _, entry := range out.Grants {
			all[*entry.GrantId] = entry
		}
		if in.Marker = out.NextMarker; in.Marker == nil {
			return all
		}
	}
}

func revoke(c *Client, keyID, grantID *string) error {
	_, err := c.RevokeGrant(context.Background(), &kms.RevokeGrantInput{KeyId: keyID, GrantId: grantID})
	return err
}

func retire(c *Client, in kms.RetireGrantInput) error {
	_, err := c.RetireGrant(context.Background(), &in)
	return err
}

// storedOf counts the records of grants, of grantees, and the counters of grants.
func storedOf(t testing.TB, c *Client) (grants, grantees, counters int) {
	t.Helper()
	var after keystore.Ref
	for {
		recs, err := c.bridge.core.Store.All(t.Context(), after, keystore.MaxPage)
		require.NoError(t, err)
		for _, rec := range recs {
			after = rec.Ref
			switch {
			case rec.Ref.Kind == keystore.KindGrant:
				grants++
			case rec.Ref.Kind == keystore.KindGrantee:
				grantees++
			case rec.Ref.Kind == keystore.KindCounter && len(rec.Ref.ID) > len(keystore.CounterGrants) &&
				rec.Ref.ID[:len(keystore.CounterGrants)] == keystore.CounterGrants:
				counters++
			}
		}
		if len(recs) < keystore.MaxPage {
			return grants, grantees, counters
		}
	}
}

func TestGrantGivesItsOperationsToItsGranteeOnItsKey(t *testing.T) {
	c := newClient(t)
	key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	producer, stranger := as(t, c, userName("producer")), as(t, c, userName("stranger"))
	role := as(t, c, roleName("consumer"))
	_, err := generate(t.Context(), producer, key.KeyId, []byte("m"))
	requireDenied(t, err, producer, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
	mustGrant(t, c, grantInput(key.KeyId, producer, opMAC))
	mustGrant(t, c, grantInput(key.KeyId, role, opVerify, opDescribe))

	createAlias(t, c, "alias/tokens", key.KeyId)
	for _, name := range []*string{key.KeyId, key.Arn, ptr("alias/tokens")} {
		mac, err := generate(t.Context(), producer, name, []byte("m"))
		require.NoError(t, err)
		require.NoError(t, verify(t.Context(), role, name, []byte("m"), mac))
	}
	stream, err := producer.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	_, err = stream.Write([]byte("m"))
	require.NoError(t, err)
	require.NoError(t, stream.Close())
	_, err = role.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	for _, refused := range []error{
		verify(t.Context(), producer, key.KeyId, []byte("m"), make([]byte, 32)),
		func() error { _, err := generate(t.Context(), role, key.KeyId, []byte("m")); return err }(),
		func() error { _, err := generate(t.Context(), stranger, key.KeyId, []byte("m")); return err }(),
		func() error { _, err := generate(t.Context(), producer, other.KeyId, []byte("m")); return err }(),
		func() error {
			_, err := producer.CreateGrant(t.Context(), grantInput(key.KeyId, stranger, opMAC))
			return err
		}(),
		func() error {
			_, err := role.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: key.KeyId})
			return err
		}(),
	} {
		requireCode(t, refused, "AccessDeniedException")
	}
}

func TestGrantsOnSigningKeys(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecEccNistP256)
	signer := as(t, c, userName("signer"))
	mustGrant(t, c, grantInput(key.KeyId, signer, types.GrantOperationSign, types.GrantOperationVerify, types.GrantOperationGetPublicKey))
	signed, err := signer.Sign(t.Context(), &kms.SignInput{KeyId: key.KeyId, Message: []byte("m"),
		SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	require.NoError(t, err)
	_, err = signer.Verify(t.Context(), &kms.VerifyInput{KeyId: key.KeyId, Message: []byte("m"), Signature: signed.Signature,
		SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	require.NoError(t, err)
	_, err = signer.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	_, err = signer.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	requireCode(t, err, "AccessDeniedException")
}

// Every operation that the model knows goes into a grant on a key that can do it, and into no other.
func TestGrantOperationsFitTheKey(t *testing.T) {
	c := newClient(t)
	for spec, fitting := range map[types.KeySpec][]types.GrantOperation{
		types.KeySpecHmac256: {opMAC, opVerify},
		types.KeySpecEccNistP256: {types.GrantOperationSign, types.GrantOperationVerify,
			types.GrantOperationGetPublicKey},
	} {
		key := mustCreate(t, c, spec)
		for _, operation := range types.GrantOperation("").Values() {
			in := grantInput(key.KeyId, c, operation)
			if operation == opGrant {
				in.Operations = append(in.Operations, opDescribe)
			}
			_, err := c.CreateGrant(t.Context(), in)
			if slices.Contains(append(fitting, opDescribe, opGrant, opRetire), operation) {
				require.NoError(t, err, operation)
				continue
			}
			requireAPIError(t, err, "ValidationException",
				"Operation "+string(operation)+" is not valid in a grant on a key with KeyUsage "+string(key.KeyUsage)+".")
		}
	}
}

func TestWhatNoGrantCanBe(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	someone := as(t, c, userName("someone"))
	service := ptr("rds.amazonaws.com")
	for name, wrong := range map[string]struct {
		edit       func(*kms.CreateGrantInput)
		code, text string
	}{
		"only CreateGrant": {func(in *kms.CreateGrantInput) { in.Operations = []types.GrantOperation{opGrant, opGrant} },
			"ValidationException", "Grants must not contain only the CreateGrant operation."},
		"no operation": {func(in *kms.CreateGrantInput) { in.Operations = []types.GrantOperation{} }, "ValidationException",
			"1 validation error detected: Value '[]' at 'operations' failed to satisfy constraint: " +
				"Member must have length greater than or equal to 1"},
		"no grantee": {func(in *kms.CreateGrantInput) { in.GranteePrincipal = nil }, "ValidationException",
			"Specify either GranteePrincipal or GranteeServicePrincipal."},
		"two grantees": {func(in *kms.CreateGrantInput) { in.GranteeServicePrincipal = service }, "ValidationException",
			"Specify either GranteePrincipal or GranteeServicePrincipal."},
		"two retiring principals": {func(in *kms.CreateGrantInput) {
			in.RetiringPrincipal, in.RetiringServicePrincipal = in.GranteePrincipal, service
		}, "ValidationException", "Specify either RetiringPrincipal or RetiringServicePrincipal, not both."},
		"a service": {func(in *kms.CreateGrantInput) { in.GranteePrincipal, in.GranteeServicePrincipal = nil, service },
			"UnsupportedOperationException", "Service principals are not supported: no AWS service calls here."},
		"a retiring service": {func(in *kms.CreateGrantInput) { in.RetiringServicePrincipal = service },
			"UnsupportedOperationException", "Service principals are not supported: no AWS service calls here."},
		"an unknown user": {func(in *kms.CreateGrantInput) { in.GranteePrincipal = ptr("arn:aws:iam::111122223333:user/none") },
			"InvalidArnException", "ARN does not refer to a valid principal: arn:aws:iam::111122223333:user/none"},
		"another account's user": {func(in *kms.CreateGrantInput) { in.GranteePrincipal = ptr("arn:aws:iam::444455556666:user/u") },
			"InvalidArnException", "ARN does not refer to a valid principal: arn:aws:iam::444455556666:user/u"},
		"an unknown retiring principal": {func(in *kms.CreateGrantInput) { in.RetiringPrincipal = ptr("x") },
			"InvalidArnException", "ARN does not refer to a valid principal: x"},
		"a bare account": {func(in *kms.CreateGrantInput) { in.GranteePrincipal = ptr(testAccount) },
			"InvalidArnException", "ARN does not refer to a valid principal: " + testAccount},
		"an encryption context": {func(in *kms.CreateGrantInput) {
			in.Constraints = &types.GrantConstraints{EncryptionContextSubset: map[string]string{"a": "b"}}
		}, "ValidationException", "Encryption context constraints are not valid in a grant on a key with KeyUsage GENERATE_VERIFY_MAC."},
	} {
		in := grantInput(key.KeyId, someone, opMAC)
		wrong.edit(in)
		_, err := c.CreateGrant(t.Context(), in)
		require.Error(t, err, name)
		requireAPIError(t, err, wrong.code, wrong.text)
	}
	grants, grantees, counters := storedOf(t, c)
	require.Zero(t, grants+grantees+counters)
}

// A call that is repeated with a name finds the grant of before, and gets another token of it.
func TestGrantWithANameIsMadeOnce(t *testing.T) {
	c := newClient(t)
	key, second := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	someone, other := as(t, c, userName("someone")), as(t, c, userName("other"))
	ask := func(edit func(*kms.CreateGrantInput)) *kms.CreateGrantOutput {
		in := grantInput(key.KeyId, someone, opMAC, opVerify)
		in.Name, in.RetiringPrincipal = ptr("it"), ptr(other.caller.ARN())
		edit(in)
		return mustGrant(t, c, in)
	}
	first := ask(func(*kms.CreateGrantInput) {})
	again := ask(func(in *kms.CreateGrantInput) {
		in.Operations = []types.GrantOperation{opVerify, opMAC, opMAC}
		in.KeyId = key.Arn
	})
	require.Equal(t, first.GrantId, again.GrantId)
	require.NotEqual(t, first.GrantToken, again.GrantToken)
	seen := map[string]bool{*first.GrantId: true}
	for name, edit := range map[string]func(*kms.CreateGrantInput){
		"another key":        func(in *kms.CreateGrantInput) { in.KeyId = second.KeyId },
		"another name":       func(in *kms.CreateGrantInput) { in.Name = ptr("that") },
		"no name":            func(in *kms.CreateGrantInput) { in.Name = nil },
		"no name, once more": func(in *kms.CreateGrantInput) { in.Name = nil },
		"another grantee":    func(in *kms.CreateGrantInput) { in.GranteePrincipal = ptr(other.caller.ARN()) },
		"fewer operations":   func(in *kms.CreateGrantInput) { in.Operations = in.Operations[:1] },
		"nobody to retire":   func(in *kms.CreateGrantInput) { in.RetiringPrincipal = nil },
		"a constraint": func(in *kms.CreateGrantInput) {
			in.Constraints = &types.GrantConstraints{SourceArn: ptr("arn:aws:sqs:us-west-2:111122223333:q")}
		},
	} {
		made := ask(edit)
		require.False(t, seen[*made.GrantId], name)
		seen[*made.GrantId] = true
	}
	require.NoError(t, revoke(c, key.KeyId, first.GrantId))
	require.NotEqual(t, first.GrantId, ask(func(*kms.CreateGrantInput) {}).GrantId, "the name is free again")
}

func TestGrantWithANameIsMadeOnceInAllProcesses(t *testing.T) {
	first, second, _, _ := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	someone := as(t, first, userName("someone"))
	ids := make([]string, 16)
	var all errgroup.Group
	for i := range ids {
		all.Go(func() error {
			in := grantInput(key.KeyId, someone, opMAC)
			in.Name = ptr("it")
			out, err := []*Client{first, second}[i%2].CreateGrant(t.Context(), in)
			if err == nil {
				ids[i] = *out.GrantId
			}
			return err
		})
	}
	require.NoError(t, all.Wait())
	require.Len(t, slices.Compact(ids), 1)
	grants, grantees, counters := storedOf(t, first)
	require.Equal(t, []int{1, 1, 1}, []int{grants, grantees, counters})
	requireNoDiscrepancies(t, first.bridge)
}

// However grants come and go in two processes, what is said twice of them agrees.
func TestGrantsAreCountedInAllProcesses(t *testing.T) {
	first, second, _, _ := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	clients := []*Client{first, second, as(t, first, userName("a")), as(t, first, userName("b"))}
	var all errgroup.Group
	for i := range 8 {
		all.Go(func() error {
			for j := range 6 {
				by, to := clients[(i+j)%2], clients[(i*j)%4]
				made, err := by.CreateGrant(t.Context(), grantInput(key.KeyId, to, [][]types.GrantOperation{{opMAC}, {opMAC, opVerify}}[j%2]...))
				if err == nil && (i+j)%3 != 0 {
					err = revoke(clients[i%2], key.KeyId, made.GrantId)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
	require.Len(t, grantsOn(t, first, key.KeyId), 16)
	requireNoDiscrepancies(t, first.bridge)
	for id := range grantsOn(t, first, key.KeyId) {
		require.NoError(t, revoke(second, key.KeyId, &id))
	}
	requireNoDiscrepancies(t, first.bridge)
	grants, grantees, counters := storedOf(t, first)
	require.Zero(t, grants+grantees+counters)
}

func TestGrantsAreLimited(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas.GrantsPerKey = 3
	c := openClient(t, cfg)
	key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	named := grantInput(key.KeyId, c, opMAC)
	named.Name = ptr("it")
	last := mustGrant(t, c, named)
	for range 2 {
		last = mustGrant(t, c, grantInput(key.KeyId, c, opMAC))
	}
	over := grantInput(key.KeyId, c, opMAC)
	_, err := c.CreateGrant(t.Context(), over)
	requireAPIError(t, err, "LimitExceededException", "The key has reached its limit of 3 grants.")
	over.DryRun = aws.Bool(true)
	_, err = c.CreateGrant(t.Context(), over)
	requireCode(t, err, "LimitExceededException")
	mustGrant(t, c, named)
	mustGrant(t, c, grantInput(other.KeyId, c, opMAC))
	require.NoError(t, revoke(c, key.KeyId, last.GrantId))
	mustGrant(t, c, grantInput(key.KeyId, c, opMAC))
	defaults, err := Quotas{}.complete()
	require.NoError(t, err)
	require.Equal(t, 50_000, defaults.GrantsPerKey)
}

func TestDryRunsOfGrants(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	in := grantInput(key.KeyId, c, opMAC)
	in.Name = ptr("it")
	dry := *in
	dry.DryRun = aws.Bool(true)
	_, err := c.CreateGrant(t.Context(), &dry)
	requireCode(t, err, "DryRunOperationException")
	require.Empty(t, grantsOn(t, c, key.KeyId))
	made := mustGrant(t, c, in)
	_, err = c.CreateGrant(t.Context(), &dry)
	requireCode(t, err, "DryRunOperationException")
	_, err = c.RevokeGrant(t.Context(), &kms.RevokeGrantInput{KeyId: key.KeyId, GrantId: made.GrantId, DryRun: aws.Bool(true)})
	requireCode(t, err, "DryRunOperationException")
	for _, dry := range []kms.RetireGrantInput{{GrantToken: made.GrantToken}, {KeyId: key.KeyId, GrantId: made.GrantId}} {
		dry.DryRun = aws.Bool(true)
		requireCode(t, retire(c, dry), "DryRunOperationException")
	}
	require.Len(t, grantsOn(t, c, key.KeyId), 1)
}

// Grants survive what keeps the key from being used, and can be ended meanwhile.
func TestGrantsAndTheStatesOfTheKey(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	someone := as(t, c, userName("someone"))
	kept, revoked, retired := mustGrant(t, c, grantInput(key.KeyId, someone, opMAC, opDescribe)),
		mustGrant(t, c, grantInput(key.KeyId, someone, opVerify)), mustGrant(t, c, grantInput(key.KeyId, someone, opRetire))
	require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
	_, err := c.CreateGrant(t.Context(), grantInput(key.KeyId, someone, opMAC))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
	require.NoError(t, revoke(c, key.KeyId, revoked.GrantId))
	schedule(t, c, key.KeyId, 7)
	_, err = c.CreateGrant(t.Context(), grantInput(key.KeyId, someone, opMAC))
	requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is pending deletion.")
	require.NoError(t, retire(someone, kms.RetireGrantInput{GrantToken: retired.GrantToken}))
	_, err = someone.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	_, err = generate(t.Context(), someone, key.KeyId, []byte("m"))
	requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is pending deletion.")
	_, err = c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.NoError(t, toggle(t.Context(), c, key.KeyId, true))
	_, err = generate(t.Context(), someone, key.KeyId, []byte("m"))
	require.NoError(t, err)
	require.Contains(t, grantsOn(t, c, key.KeyId), *kept.GrantId)
	require.Len(t, grantsOn(t, c, key.KeyId), 1)
}

// A grant counts at once in every process. When it has ended it gives nothing any more: in the process that ended it at once, in others
// within a second.
func TestGrantsBeginAndEndInAllProcesses(t *testing.T) {
	for name, end := range map[string]func(c *Client, keyID *string, made *kms.CreateGrantOutput) error{
		"revoked": func(c *Client, keyID *string, made *kms.CreateGrantOutput) error {
			return revoke(c, keyID, made.GrantId)
		},
		"retired": func(c *Client, _ *string, made *kms.CreateGrantOutput) error {
			return retire(c, kms.RetireGrantInput{GrantToken: made.GrantToken})
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, second, store, clk := twoProcesses(t)
			key := mustCreate(t, first, types.KeySpecHmac256)
			client := as(t, first, userName("late"))
			other := second.As(client.caller)
			mac := func(c *Client) error { _, err := generate(t.Context(), c, key.KeyId, []byte("m")); return err }
			requireCode(t, mac(client), "AccessDeniedException")
			require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
			store.stuck.Store(true) // what is cached by the first stays so
			waitForPoller(t, store)
			made := mustGrant(t, second, grantInput(key.KeyId, client, opMAC))
			require.NoError(t, mac(client))
			require.NoError(t, mac(other))
			require.NoError(t, end(second, key.KeyId, made))
			requireCode(t, mac(other), "AccessDeniedException")
			store.stuck.Store(false)
			clk.Advance(records.MaxAge + time.Millisecond)
			requireCode(t, mac(client), "AccessDeniedException")
			_, err := first.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId, GrantTokens: []string{*made.GrantToken}})
			requireCode(t, err, "InvalidGrantTokenException")
		})
	}
}
