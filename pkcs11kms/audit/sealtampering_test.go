package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var forgedTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// sealedLog is a small log of two chains that is sealed: the first by its own seals, in two files, of which the last ends with one; the
// second by the same.
type sealedLog struct {
	dir    string
	signer *signer
	chains [][][]byte // lines of both
	paths  [][]string // their files
	per    []int      // how many lines each file of the first has
}

func newSealedLog(t *testing.T) *sealedLog {
	x := &sealedLog{dir: filepath.Join(t.TempDir(), "audit"), signer: newSigner(t)}
	first := mustOpen(t, x.dir, Options{})
	second := mustOpen(t, x.dir, Options{})
	s := first.newSealing(x.signer)
	n := 0
	for i := range 6 {
		for range 2 {
			n++
			require.NoError(t, first.Record(t.Context(), use(n)))
		}
		n++
		require.NoError(t, second.Record(t.Context(), use(n)))
		s.try(t.Context(), true)
		require.EqualValues(t, i+1, first.Stats().Seals)
		if i == 2 {
			first.Rotate()
		}
	}
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	found, err := list(x.dir)
	require.NoError(t, err)
	for _, number := range found.numbers() {
		var lines [][]byte
		var paths []string
		for _, f := range found.files[number] {
			before := len(lines)
			require.NoError(t, scanFile(f, func(line []byte) error {
				lines = append(lines, append(bytes.Clone(line), '\n'))
				return nil
			}))
			require.NoError(t, os.Remove(f.name()))
			paths = append(paths, f.path)
			if number == 1 {
				x.per = append(x.per, len(lines)-before)
			}
		}
		x.chains, x.paths = append(x.chains, lines), append(x.paths, paths)
	}
	x.write(t, x.chains)
	require.Len(t, x.paths[0], 2)
	require.Len(t, x.chains[0], 18)
	require.Len(t, x.chains[1], 6)
	return x
}

// write writes the files of chains whose records are these.
func (x *sealedLog) write(t *testing.T, chains [][][]byte) {
	first := min(x.per[0], len(chains[0]))
	require.NoError(t, os.WriteFile(x.paths[0][0], bytes.Join(chains[0][:first], nil), 0o600))
	require.NoError(t, os.WriteFile(x.paths[0][1], bytes.Join(chains[0][first:], nil), 0o600))
	require.NoError(t, os.WriteFile(x.paths[1][0], bytes.Join(chains[1], nil), 0o600))
}

// rebuilt gives lines the numbers and hashes that they would have if they had been written so.
func rebuilt(t *testing.T, lines [][]byte) (out [][]byte) {
	at, err := linkOf(bytes.TrimSpace(lines[0]))
	require.NoError(t, err)
	at.seq, at.prev = 1, hash{}
	for _, line := range lines {
		record := bytes.Clone(line[:bytes.LastIndex(line, []byte(linkStart))])
		line = at.append(record)
		out = append(out, append(bytes.Clone(line), '\n'))
		at.seq, at.prev = at.seq+1, hashOf(line)
	}
	return out
}

// copied is a copy of both chains that may be changed.
func (x *sealedLog) copied() [][][]byte {
	return [][][]byte{slices.Clone(x.chains[0]), slices.Clone(x.chains[1])}
}

// verify holds that a log is not valid, and returns what was found.
func (x *sealedLog) verify(t *testing.T, chains [][][]byte, known Known) []Problem {
	t.Helper()
	x.write(t, chains)
	v, err := VerifyDir(x.dir, known)
	require.NoError(t, err)
	return v.Problems
}

// Whoever can write to all files, and makes hashes right after what was changed, is found by the seals alone: wherever a seal names what
// was changed, or something after it.
func TestAChainThatIsMadeAnewIsFoundByItsSeals(t *testing.T) {
	x := newSealedLog(t)
	bySeals := Known{Check: x.signer.keys(t).Check}
	require.Empty(t, x.verify(t, x.chains, x.signer.known(t)))
	ways := map[string]func(lines [][]byte, i int) [][]byte{
		"edit": func(lines [][]byte, i int) [][]byte {
			lines[i] = bytes.Replace(lines[i], []byte(`"eventVersion":"1.08"`), []byte(`"eventVersion":"1.09"`), 1)
			return lines
		},
		"removal":   func(lines [][]byte, i int) [][]byte { return slices.Delete(lines, i, i+1) },
		"insertion": func(lines [][]byte, i int) [][]byte { return slices.Insert(lines, i, lines[0]) },
		"splice":    func(lines [][]byte, i int) [][]byte { return slices.Insert(lines, i, x.chains[1][3]) },
	}
	for name, change := range ways {
		for c := range x.chains {
			for i := range x.chains[c] {
				if c == 0 && i == len(x.chains[0])-1 {
					continue // the last seal itself, see TestTheTailIsFoundByTheStore
				}
				what := fmt.Sprintf("%s of record %d of chain %d", name, i+1, c+1)
				changed := x.copied()
				changed[c] = rebuilt(t, change(changed[c], i))
				problems := x.verify(t, changed, bySeals)
				require.NotEmpty(t, problems, what)
				require.NotEmpty(t, x.verify(t, changed, x.signer.known(t)), what)
				require.Empty(t, x.withoutSeals(t, changed), "%s: nothing else shows it", what)
			}
		}
	}
}

// withoutSeals is what is found by the hashes alone.
func (x *sealedLog) withoutSeals(t *testing.T, chains [][][]byte) (left []Problem) {
	for _, p := range x.verify(t, chains, Known{}) {
		if !strings.Contains(p.Text, "the seal") {
			left = append(left, p)
		}
	}
	return left
}

// A log that is cut before a seal, with the seal, is found by what the store knows. So is one that was made anew without any seal.
func TestTheTailIsFoundByTheStore(t *testing.T) {
	x := newSealedLog(t)
	known := x.signer.known(t)
	withoutStore := Known{Check: known.Check}
	last := len(x.chains[0]) - 1
	for keep := range last {
		changed := x.copied()
		changed[0] = changed[0][:keep]
		problems := x.verify(t, changed, known)
		require.NotEmpty(t, problems, keep)
		require.Contains(t, fmt.Sprint(problems), "the store knows a seal of it")
	}
	changed := x.copied()
	changed[0] = changed[0][:last] // the seal alone: records are all there
	require.Contains(t, fmt.Sprint(x.verify(t, changed, known)), "the store knows a seal of it, and there is no valid one")
	require.Empty(t, x.verify(t, changed, withoutStore))

	for c := range x.chains {
		for keep := range len(x.chains[c]) {
			changed := x.copied()
			changed[c] = changed[c][:keep]
			require.NotEmpty(t, x.verify(t, changed, known), "%d of %d", keep, c)
		}
	}
	unsealed := x.copied()
	unsealed[0] = rebuilt(t, slices.DeleteFunc(unsealed[0], mayBeSeal))
	require.Empty(t, x.verify(t, unsealed, withoutStore))
	require.Contains(t, fmt.Sprint(x.verify(t, unsealed, Known{Check: known.Check, MustBeSealed: true})), "there is no valid one")
	require.NotEmpty(t, x.verify(t, unsealed, known))
}

// Seals of others prove nothing: those by another key, in whatever place, and those of another chain.
func TestSealsOfOthersAreFound(t *testing.T) {
	x := newSealedLog(t)
	known := x.signer.known(t)
	forger := newSigner(t)
	forged := x.copied()
	forged[0][4] = bytes.Replace(forged[0][4], []byte("1.08"), []byte("1.09"), 1)
	forged[0] = rebuilt(t, forged[0])
	for i, line := range forged[0] {
		if mayBeSeal(line) {
			at, err := linkOf(bytes.TrimSpace(forged[0][i-1]))
			require.NoError(t, err)
			own := Head{Chain: at.chain, Seq: at.seq, Hash: hexOf(hashOf(bytes.TrimSpace(forged[0][i-1])))}
			text := statement{heads: []Head{own}, time: forgedTime}.text()
			signature, err := forger.Sign(t.Context(), text)
			require.NoError(t, err)
			signature.Key = SealKeyID(x.signer.der()) // as if it were
			forged[0][i] = append(at.append(appendOpen(nil, sealEvent(sealName, text, signature), forgedTime)), '\n')
			forged[0] = rebuilt(t, forged[0])
		}
	}
	problems := x.verify(t, forged, known)
	require.Contains(t, problems[0].Text, "the seal is not valid: its signature is wrong")
	require.EqualValues(t, 3, problems[0].Seq)
	require.Empty(t, x.verify(t, forged, Known{}), "but for its signatures all is well")
	require.Contains(t, x.verify(t, x.chains, Known{Check: forger.keys(t).Check})[0].Text, "it is by a key that was not given")

	alone := x.copied() // the second chain, with the first one's seals and no first one
	alone[1] = rebuilt(t, append(alone[1], x.chains[0][2], x.chains[0][5]))
	alone[0] = nil
	require.NotEmpty(t, x.verify(t, alone, Known{Check: known.Check}))
}

// A seal that is not written as seals are is told, and cannot hide that it says nothing.
func TestSealsThatAreNone(t *testing.T) {
	x := newSealedLog(t)
	for name, change := range map[string][2]string{
		"text":      {"pkcs11kms audit seal 1", "pkcs11kms audit seal 2"},
		"signature": {`"signature":"`, `"signature":"!`},
		"key":       {`"key":"`, `"key":"0`},
		"algorithm": {"ECDSA_SHA_256", "ECDSA_SHA_255"},
	} {
		changed := x.copied()
		changed[0][2] = bytes.Replace(changed[0][2], []byte(change[0]), []byte(change[1]), 1)
		changed[0] = rebuilt(t, changed[0])
		problems := x.verify(t, changed, Known{Check: x.signer.keys(t).Check})
		require.NotEmpty(t, problems, name)
		require.Contains(t, problems[0].Text, "the seal is not valid", name)
		require.EqualValues(t, 3, problems[0].Seq, name)
	}
}
