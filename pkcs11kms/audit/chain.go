package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A chain is the records of one process after another. Each line is a record with one more member at its end, pkcs11kms: the chain's id,
// the number of the record in it, from 1 on, and the SHA-256 of the line before, without its line end; of the first line, zeros.
//
// The files of chain 7 are 000007-SEQ.jsonl, where SEQ is the number of the first record in it. All but the last are compressed
// (.jsonl.gz), and the last is .jsonl.new for the moment until the disk has the one before. Whoever writes holds an flock on 000007.lock,
// which has the chain's id in it from when there is a file.

type hash = [sha256.Size]byte

// link is a record's place.
type link struct {
	chain string
	seq   uint64
	prev  hash
}

const (
	linkStart = `,"pkcs11kms":{"chain":"`
	linkSeq   = `","seq":`
	linkPrev  = `,"prev":"`
	linkEnd   = `"}}`

	chainDigits = 16
	// maxLink is the most bytes that a link adds to a record, with the line end.
	maxLink = len(linkStart) + chainDigits + len(linkSeq) + 20 + len(linkPrev) + 2*sha256.Size + len(linkEnd) + 1
)

// append appends the link to a record without its last brace.
func (l *link) append(b []byte) []byte {
	b = append(append(b, linkStart...), l.chain...)
	b = strconv.AppendUint(append(b, linkSeq...), l.seq, 10)
	b = hex.AppendEncode(append(b, linkPrev...), l.prev[:])
	return append(b, linkEnd...)
}

var errNoRecord = errors.New("it is no record of an audit log")

// linkOf reads the link of a line.
func linkOf(line []byte) (l link, err error) {
	at := bytes.LastIndex(line, []byte(linkStart))
	if at < 0 || !bytes.HasSuffix(line, []byte(linkEnd)) || !json.Valid(line) {
		return l, errNoRecord
	}
	chain, rest, ok := strings.Cut(string(line[at+len(linkStart):len(line)-len(linkEnd)]), linkSeq)
	seq, prev, ok2 := strings.Cut(rest, linkPrev)
	if !ok || !ok2 || !isChainID(chain) {
		return l, errNoRecord
	}
	l.chain = chain
	if l.seq, err = strconv.ParseUint(seq, 10, 64); err != nil || strconv.FormatUint(l.seq, 10) != seq || len(prev) != 2*len(l.prev) {
		return l, errNoRecord
	}
	if _, err = hex.Decode(l.prev[:], []byte(prev)); err != nil || hex.EncodeToString(l.prev[:]) != prev {
		return l, errNoRecord
	}
	return l, nil
}

func isChainID(id string) bool {
	return len(id) == chainDigits && strings.Trim(id, hexDigits) == ""
}

// hashOf is what the line after this one has as prev.
func hashOf(line []byte) hash { return sha256.Sum256(line) }

func hexOf(h hash) string { return hex.EncodeToString(h[:]) }

// file is a file of a chain.
type file struct {
	number int
	first  uint64 // the number of the record that it begins with
	path   string // without .gz and .new
	packed bool   // and there is no other
	fresh  bool   // the disk may not have the file before
}

const (
	plainSuffix  = ".jsonl"
	packedSuffix = ".gz"
	freshSuffix  = ".new"
	lockSuffix   = ".lock"
)

// open returns the path that is there.
func (f file) name() string {
	switch {
	case f.packed:
		return f.path + packedSuffix
	case f.fresh:
		return f.path + freshSuffix
	}
	return f.path
}

func filePath(dir string, number int, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%06d-%020d%s", number, first, plainSuffix))
}

func lockPath(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%06d%s", number, lockSuffix))
}

// parseName takes the name of a file of a chain apart. A file that is not of ours is none.
func parseName(path string) (f file, ok bool) {
	if f.path, f.packed = strings.CutSuffix(path, packedSuffix); !f.packed {
		f.path, f.fresh = strings.CutSuffix(path, freshSuffix)
	}
	name, ok := strings.CutSuffix(filepath.Base(f.path), plainSuffix)
	number, first, ok2 := strings.Cut(name, "-")
	if !ok || !ok2 {
		return f, false
	}
	var err, err2 error
	f.number, err = strconv.Atoi(number)
	f.first, err2 = strconv.ParseUint(first, 10, 64)
	return f, err == nil && err2 == nil && f.number > 0 && filepath.Base(filePath("", f.number, f.first)) == filepath.Base(f.path)
}

// listing is what a directory holds: the numbers of the chains that have a lock, in order, and the files of each chain, in order.
type listing struct {
	locks []int
	files map[int][]file
}

func list(dir string) (listing, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return listing{}, err
	}
	found := listing{files: map[int][]file{}}
	for _, entry := range entries {
		if number, ok := strings.CutSuffix(entry.Name(), lockSuffix); ok {
			if n, err := strconv.Atoi(number); err == nil && n > 0 && filepath.Base(lockPath("", n)) == entry.Name() {
				found.locks = append(found.locks, n)
			}
			continue
		}
		f, ok := parseName(filepath.Join(dir, entry.Name()))
		if !ok {
			continue
		}
		files := found.files[f.number]
		if last := len(files) - 1; last >= 0 && files[last].first == f.first {
			files[last].packed, files[last].fresh = false, false // of both, which a kill can leave, the one that is whole for certain
			continue
		}
		found.files[f.number] = append(files, f)
	}
	slices.Sort(found.locks)
	return found, nil
}

// numbers are those of all chains.
func (l listing) numbers() []int {
	numbers := slices.Clone(l.locks)
	for number := range l.files {
		if !slices.Contains(numbers, number) {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
