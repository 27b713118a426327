package audit

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// signer is a Sealer with a key of its own.
type signer struct {
	key    *ecdsa.PrivateKey
	mu     sync.Mutex // guards what follows
	failed error      // what Sign answers with
	slow   chan struct{}
	over   *Handover // what Handover answers with
	kept   map[string]uint64
	keeps  int

	checkpoint func() (*Checkpoint, error)
	outside    []Head // what KeepOutside was told
	noOutside  error
	noKeep     error
}

func newSigner(t testing.TB) *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &signer{key: key, kept: map[string]uint64{}}
}

func (s *signer) der() []byte {
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		panic(err)
	}
	return der
}

func (s *signer) keys(t testing.TB) SealKeys {
	keys, err := ParseSealKeys(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: s.der()}))
	require.NoError(t, err)
	return keys
}

func (s *signer) Sign(ctx context.Context, text []byte) (Signature, error) {
	s.mu.Lock()
	slow, failed := s.slow, s.failed
	s.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return Signature{}, ctx.Err()
		}
	}
	sum := sha256.Sum256(text)
	value, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	return Signature{Algorithm: SealECDSA, Key: SealKeyID(s.der()), Value: value}, errors.Join(err, failed)
}

func (s *signer) Check(_ context.Context, text []byte, by Signature) error {
	return SealKeys{SealKeyID(s.der()): s.key.Public()}.Check(text, by)
}

func (s *signer) Handover(context.Context) (*Handover, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over, nil
}

func (s *signer) KeepOutside(_ context.Context, h Head, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outside = append(s.outside, h)
	return s.noOutside
}

func (s *signer) Checkpoint(context.Context) (*Checkpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checkpoint == nil {
		return nil, nil
	}
	return s.checkpoint()
}

func (s *signer) Keep(_ context.Context, heads []Head) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noKeep != nil {
		return s.noKeep
	}
	s.keeps++
	for _, h := range heads {
		s.kept[h.Chain] = max(s.kept[h.Chain], h.Seq)
	}
	return nil
}

func (s *signer) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

func (s *signer) known(t testing.TB) Known {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := Known{Check: s.keys(t).Check, Sealed: map[string]uint64{}, MustBeSealed: true}
	for chain, seq := range s.kept {
		known.Sealed[chain] = seq
	}
	return known
}

// often are Options by which a log is sealed at once.
var often = Options{SealInterval: time.Millisecond, SealIdle: time.Hour}

// A log is sealed while it is written to, after a rotation and at the end; a seal also covers the chains that others have left.
func TestSeals(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	s := newSigner(t)
	l := mustOpen(t, dir, often)
	command := mustOpen(t, dir, Options{}) // which does not seal
	stop := l.SealBy(s)
	require.NoError(t, command.Record(t.Context(), use(1)))
	require.Eventually(t, func() bool { return l.Stats().Seals == 1 }, time.Minute, time.Millisecond, "what others have left")
	require.NoError(t, l.Record(t.Context(), use(2)))
	require.Eventually(t, func() bool { return l.Stats().Seals == 2 && l.Stats().Unsealed == 0 }, time.Minute, time.Millisecond)
	require.NoError(t, command.Record(t.Context(), use(3)))
	require.NoError(t, command.Close())
	require.Eventually(t, func() bool { return l.Stats().Seals == 3 }, time.Minute, time.Millisecond)
	require.NoError(t, l.Record(t.Context(), use(4)))
	stop(t.Context())
	require.EqualValues(t, 4, l.Stats().Seals)
	require.NoError(t, l.Close())

	v, err := VerifyDir(dir, s.known(t))
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
	require.Equal(t, 4, v.Seals)
	require.WithinDuration(t, time.Now(), v.LastSeal, time.Hour)
	require.Len(t, s.kept, 2)
	heads, err := Heads(dir)
	require.NoError(t, err)
	require.EqualValues(t, heads[0].Seq-1, s.kept[heads[0].Chain], "a seal names the record before it")
	require.Equal(t, heads[1].Seq, s.kept[heads[1].Chain])
	uses, err := Uses(t.Context(), dir, time.Time{}, time.Time{})
	require.NoError(t, err)
	require.EqualValues(t, 4, uses[0].Calls)
	require.Len(t, uses, 1, "seals are no calls")
}

// What is quiet is sealed seldom, but is.
func TestSealsOfAQuietLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	s := newSigner(t)
	l := mustOpen(t, dir, Options{SealInterval: time.Millisecond, SealIdle: 5 * time.Millisecond})
	require.NoError(t, l.Record(t.Context(), use(1)))
	stop := l.SealBy(s)
	require.Eventually(t, func() bool { return l.Stats().Seals >= 3 }, time.Minute, time.Millisecond)
	stop(t.Context())
	require.NoError(t, l.Close())
	quiet := mustOpen(t, dir, Options{SealInterval: time.Millisecond, SealIdle: time.Hour})
	stop = quiet.SealBy(s)
	require.Eventually(t, func() bool { return quiet.Stats().Seals == 1 }, time.Minute, time.Millisecond, "it does not know what is sealed")
	stop(t.Context())
	require.EqualValues(t, 1, quiet.Stats().Seals, "there is nothing new")
	v, err := VerifyDir(dir, s.known(t))
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
}

// Two processes that are quiet do not seal each other's seals for ever.
func TestTwoThatSealComeToRest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	s := newSigner(t)
	var both []*sealing
	for range 2 {
		l := mustOpen(t, dir, Options{})
		require.NoError(t, l.Record(t.Context(), use(1)))
		both = append(both, l.newSealing(s))
	}
	sealed := func() uint64 { return both[0].l.Stats().Seals + both[1].l.Stats().Seals }
	for range 3 {
		both[0].try(t.Context(), true)
		both[1].try(t.Context(), true)
	}
	require.EqualValues(t, 2, sealed())
	require.NoError(t, both[1].l.Record(t.Context(), use(2)))
	for range 3 {
		both[0].try(t.Context(), true)
		both[1].try(t.Context(), true)
	}
	require.EqualValues(t, 4, sealed(), "the record was sealed by both, and their seals by nobody")
}

// A seal is made at rotation, and one is not the reason of the next.
func TestSealsAtRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	s := newSigner(t)
	l := mustOpen(t, dir, Options{RotateBytes: 1})
	stop := l.SealBy(s)
	require.NoError(t, l.Record(t.Context(), use(1)))
	require.Eventually(t, func() bool { return l.Stats().Seals == 1 }, time.Minute, time.Millisecond)
	require.Empty(t, s.kept, "the store is not written to at each rotation")
	stop(t.Context())
	require.EqualValues(t, 1, l.Stats().Seals)
	require.NoError(t, l.Close())
	require.Len(t, s.kept, 1)
	v, err := VerifyDir(dir, s.known(t))
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
}

// That no seal can be made, or takes long, keeps nobody from recording. It is told, and mended when it can be.
func TestSealsThatFail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	s := newSigner(t)
	s.fail(errors.New("the token is gone"))
	var logged bytes.Buffer
	l := mustOpen(t, dir, Options{SealInterval: time.Millisecond, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	stop := l.SealBy(s)
	require.NoError(t, l.Record(t.Context(), use(1)))
	require.Eventually(t, func() bool { return l.Stats().SealFailures > 3 }, time.Minute, time.Millisecond)
	require.Contains(t, l.Warning(), "the audit log cannot be sealed: it is unsealed since ")
	require.NoError(t, l.Health())
	require.NoError(t, l.Record(t.Context(), use(2)))
	require.Positive(t, l.Stats().Unsealed)
	slow := make(chan struct{})
	s.mu.Lock()
	s.slow, s.failed = slow, nil
	s.mu.Unlock()
	require.NoError(t, l.Record(t.Context(), use(3)))
	close(slow)
	require.Eventually(t, func() bool { return l.Warning() == "" && l.Stats().Unsealed == 0 }, time.Minute, time.Millisecond)
	stop(t.Context())
	require.NoError(t, l.Close())
	require.Equal(t, 1, strings.Count(logged.String(), "cannot be sealed"), "told once: %s", &logged)
	require.Contains(t, logged.String(), "the token is gone")
	v, err := VerifyDir(dir, s.known(t))
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
}

// What comes after the last seal is told, with its number and time.
func TestUnsealedRecordsAreTold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	s := newSigner(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := mustOpen(t, dir, Options{Now: func() time.Time { return at }})
	stop := l.SealBy(s)
	for i := range 3 {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
	stop(t.Context())
	at = at.Add(time.Hour)
	for i := range 4 {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
	v, err := VerifyDir(dir, s.known(t))
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Equal(t, []Unsealed{{Chain: v.Heads[0].Chain, Seq: 5, Time: at, Records: 4}}, v.Unsealed)
	v, err = VerifyDir(dir, Known{})
	require.NoError(t, err)
	require.Empty(t, v.Unsealed, "without a key nothing is known")
}

// A log has one Sealer at a time: of two applications that share it the first one seals.
func TestOneSealsAtATime(t *testing.T) {
	l := mustOpen(t, filepath.Join(t.TempDir(), "audit"), Options{})
	first, second := newSigner(t), newSigner(t)
	require.NoError(t, l.Record(t.Context(), use(1)))
	stop, stopSecond := l.SealBy(first), l.SealBy(second)
	stopSecond(t.Context())
	require.Zero(t, l.Stats().Seals)
	stop(t.Context())
	require.EqualValues(t, 1, l.Stats().Seals)
	require.Len(t, first.kept, 1)
	require.NoError(t, l.Record(t.Context(), use(2)))
	l.SealBy(second)(t.Context())
	require.Len(t, second.kept, 1, "now it is its turn")
	require.NoError(t, l.Close())
	l.SealBy(first)(t.Context())
	require.EqualValues(t, 2, l.Stats().Seals)
}

// The keys of seals are public ones.
func TestSealKeys(t *testing.T) {
	s, other := newSigner(t), newSigner(t)
	text := []byte("text")
	signature, err := s.Sign(t.Context(), text)
	require.NoError(t, err)
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: other.der()}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: s.der()})...)
	keys, err := ParseSealKeys(both)
	require.NoError(t, err)
	require.NoError(t, keys.Check(text, signature))
	require.ErrorIs(t, keys.Check([]byte("Text"), signature), ErrWrongSignature)
	require.ErrorIs(t, other.keys(t).Check(text, signature), ErrNoSuchKey)
	signature.Algorithm = SealRSA
	require.ErrorIs(t, keys.Check(text, signature), ErrWrongSignature)
	for _, wrong := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.der()}))} {
		_, err := ParseSealKeys([]byte(wrong))
		require.Error(t, err, wrong)
	}
}

// The text of a seal is read in one form alone.
func TestSealText(t *testing.T) {
	heads := []Head{{Chain: strings.Repeat("a", chainDigits), Seq: 7, Hash: strings.Repeat("0", 64)}}
	text := string(statement{heads: heads, time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}.text())
	require.Equal(t, "pkcs11kms audit seal 1\n2026-01-02T03:04:05Z\naaaaaaaaaaaaaaaa 7 "+strings.Repeat("0", 64)+"\n", text)
	read, err := parseStatement(text)
	require.NoError(t, err)
	require.Equal(t, heads, read.heads)
	require.Empty(t, read.gone)
	require.Nil(t, read.next)
	require.Equal(t, 2026, read.time.Year())
	for _, wrong := range []string{"", text[:len(text)-1], text + "\n", text + "x", strings.Replace(text, " 7 ", " 07 ", 1),
		strings.Replace(text, "seal 1", "seal 2", 1), strings.Replace(text, "Z", "+00:00", 1), strings.Replace(text, " 7 ", " 7  ", 1),
		strings.Replace(text, "aaaa 7", "aaaA 7", 1), "pkcs11kms audit seal 1\n2026-01-02T03:04:05Z\n"} {
		_, err := parseStatement(wrong)
		require.Error(t, err, "%q", wrong)
	}
}
