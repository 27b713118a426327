package loadtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
	"github.com/pkcs11kms/bridge/pkcs11kms/loadtest"
)

// TestEveryOperationOfEverySpec on a real token: all answers are right.
func TestEveryOperationOfEverySpec(t *testing.T) {
	client := kmstest.NewClient(t)
	for _, spec := range pkcs11kms.KeySpecs() {
		keyID, err := loadtest.MakeKey(t.Context(), client, spec)
		require.NoError(t, err, spec)
		operations := []string{"", loadtest.VerifyMac}
		if loadtest.UsageOf(spec) == types.KeyUsageTypeSignVerify {
			operations = []string{"", loadtest.Verify}
		}
		for _, operation := range operations {
			work, subject, err := loadtest.Prepare(t.Context(), client, keyID, operation, 100)
			require.NoError(t, err, "%s %s", spec, operation)
			assert.Equal(t, spec, subject.Spec)
			if operation != "" {
				assert.Equal(t, operation, subject.Operation)
			}
			steps := loadtest.Run(t.Context(), loadtest.Plan{Concurrency: []int{1, 4}, Duration: time.Millisecond, WarmUp: time.Millisecond}, work)
			require.Len(t, steps, 2)
			for _, s := range steps {
				assert.GreaterOrEqual(t, s.Operations, int64(s.Concurrency), "each caller calls")
				assert.Empty(t, s.Errors, "%s %s", spec, operation)
				var counted int64
				for _, b := range s.Latency.Histogram {
					counted += b.Count
				}
				assert.Equal(t, s.Operations, counted)
			}
		}
	}
}

// TestThrowAwayKey: who finds the key can read what it is, and it is of no use once it is deleted.
func TestThrowAwayKey(t *testing.T) {
	client := kmstest.NewClient(t)
	keyID, err := loadtest.MakeKey(t.Context(), client, types.KeySpecHmac256)
	require.NoError(t, err)
	date, err := loadtest.DeleteKey(t.Context(), client, keyID)
	require.NoError(t, err)
	out, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyID})
	require.NoError(t, err)
	assert.Contains(t, *out.KeyMetadata.Description, "throw-away key of pkcs11kms bench")
	assert.Equal(t, types.KeyStatePendingDeletion, out.KeyMetadata.KeyState)
	assert.True(t, date.Equal(*out.KeyMetadata.DeletionDate))
	assert.WithinDuration(t, time.Now().Add(7*24*time.Hour), date, time.Hour)
	_, _, err = loadtest.Prepare(t.Context(), client, keyID, "", 32)
	var pending *types.KMSInvalidStateException
	assert.ErrorAs(t, err, &pending, "a key that cannot be used is told before anything is measured")
}

func TestOperationsThatDoNotFit(t *testing.T) {
	client := kmstest.NewClient(t)
	key := kmstest.MustCreateKey(t, client, types.KeySpecHmac256)
	_, _, err := loadtest.Prepare(t.Context(), client, *key.KeyId, loadtest.Sign, 32)
	require.ErrorIs(t, err, loadtest.ErrUnfit)
	assert.EqualError(t, err, "the key cannot do that: a key for GENERATE_VERIFY_MAC does GenerateMac and VerifyMac, not Sign")
	_, err = loadtest.OperationOf(types.KeyUsageTypeEncryptDecrypt, "")
	assert.ErrorIs(t, err, loadtest.ErrUnfit)
}

// liar is a client whose token goes wrong once some answers were right.
type liar struct {
	*pkcs11kms.Client
	right *int // answers before the first lie
}

func (l liar) lies() bool { *l.right--; return *l.right < 0 }

func (l liar) GenerateMac(ctx context.Context, in *kms.GenerateMacInput, _ ...func(*kms.Options)) (*kms.GenerateMacOutput, error) {
	out, err := l.Client.GenerateMac(ctx, in)
	if err == nil && l.lies() {
		out.Mac[0] ^= 1
	}
	return out, err
}

func (l liar) VerifyMac(ctx context.Context, in *kms.VerifyMacInput, _ ...func(*kms.Options)) (*kms.VerifyMacOutput, error) {
	if l.lies() {
		in = &kms.VerifyMacInput{KeyId: in.KeyId, MacAlgorithm: in.MacAlgorithm, Message: in.Message, Mac: []byte("no MAC at all")}
	}
	return l.Client.VerifyMac(ctx, in)
}

func (l liar) Sign(ctx context.Context, in *kms.SignInput, _ ...func(*kms.Options)) (*kms.SignOutput, error) {
	out, err := l.Client.Sign(ctx, in)
	if err == nil && l.lies() {
		out.Signature[len(out.Signature)-1] ^= 1
	}
	return out, err
}

func (l liar) Verify(ctx context.Context, in *kms.VerifyInput, _ ...func(*kms.Options)) (*kms.VerifyOutput, error) {
	if l.lies() {
		return &kms.VerifyOutput{SignatureValid: false}, nil
	}
	return l.Client.Verify(ctx, in)
}

// TestErrorsOfTheAPI: the same refusal has the same name by the library and by a server, and a server's shows no more than what it says.
func TestErrorsOfTheAPI(t *testing.T) {
	server := kmstest.NewServer(t)
	key := kmstest.MustCreateKey(t, server.Client(), types.KeySpecHmac256)
	local, err := server.Bridge().Client("")
	require.NoError(t, err)
	work := map[string]loadtest.Work{}
	for name, client := range map[string]loadtest.Client{"server": server.Client(), "library": local.As(server.Bridge().Root())} {
		work[name], _, err = loadtest.Prepare(t.Context(), client, *key.KeyId, "", 32)
		require.NoError(t, err)
	}
	plan := loadtest.Plan{Concurrency: []int{1}, Duration: time.Millisecond, Deadline: time.Nanosecond}
	for name, w := range work {
		assert.Equal(t, "DeadlineExceeded", loadtest.Run(t.Context(), plan, w)[0].Errors[0].Kind, name)
	}
	plan.Deadline = 0
	_, err = server.Client().DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	for name, w := range work {
		steps := loadtest.Run(t.Context(), plan, w)
		require.Len(t, steps[0].Errors, 1, name)
		assert.Equal(t, "DisabledException", steps[0].Errors[0].Kind, name)
		assert.Contains(t, steps[0].Errors[0].Example, *key.Arn+" is disabled.")
	}
	require.NoError(t, server.Close())
	steps := loadtest.Run(t.Context(), plan, work["server"])
	assert.Equal(t, "ConnectionError", steps[0].Errors[0].Kind)
	assert.NotContains(t, steps[0].Errors[0].Example, "operation error")
}

func TestWrongAnswersAreErrors(t *testing.T) {
	client := kmstest.NewClient(t)
	mac := aws.ToString(kmstest.MustCreateKey(t, client, types.KeySpecHmac256).KeyId)
	pair := aws.ToString(kmstest.MustCreateKey(t, client, types.KeySpecEccNistP256).KeyId)
	for operation, tc := range map[string]struct {
		keyID string
		least int64 // wrong ones among 128 answers of which the first may be right
	}{
		loadtest.GenerateMac: {mac, 127},
		loadtest.VerifyMac:   {mac, 127},
		loadtest.Sign:        {pair, 1}, // of which a sample is looked at
		loadtest.Verify:      {pair, 127},
	} {
		right := 4 // as many as Prepare asks for, at most
		work, _, err := loadtest.Prepare(t.Context(), liar{client, &right}, tc.keyID, operation, 32)
		require.NoError(t, err, operation)
		right = 1
		var wrong, calls int64
		work.Describe = func(err error) (kind, text string) {
			t.Errorf("%s: %v is taken for no wrong answer", operation, err)
			return "", ""
		}
		call := work.Call
		ctx, enough := context.WithCancel(t.Context())
		work.Call = func(ctx context.Context) ([]byte, error) {
			if calls++; calls == 128 {
				enough()
			}
			return call(ctx)
		}
		for _, s := range loadtest.Run(ctx, loadtest.Plan{Concurrency: []int{1}, Duration: time.Hour}, work) {
			for _, e := range s.Errors {
				assert.Equal(t, loadtest.KindWrong, e.Kind)
				wrong += e.Count
			}
		}
		assert.GreaterOrEqual(t, wrong, tc.least, operation)

		right = 0
		_, _, err = loadtest.Prepare(t.Context(), liar{client, &right}, tc.keyID, operation, 32)
		var told *loadtest.WrongError
		if operation != loadtest.GenerateMac { // of which the first lie is not known for one, and all are the same
			require.ErrorAs(t, err, &told, operation)
		}
	}
}
