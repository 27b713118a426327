package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bits-and-blooms/bloom/v3"
)

// Beside a closed file stands its index, 000007-SEQ.index. The file is made of parts that can each be unpacked by itself (gzip members, see
// pack.go), and the index has of each part where it is, the times of its records, and a Bloom filter of their terms: a search reads the
// parts that may have what is asked for. No answer depends on it: records that are found are looked at as those of any other file, and an
// index that is not of this file, or damaged, is made anew.
type index []block

// block is a part of a file.
type block struct {
	offset, bytes  int64 // in the file as it is
	oldest, newest int64 // of the records' times, in seconds since 1970
	filter         filter
}

// filter is the bits of a Bloom filter, 64 of them at least.
type filter []byte

// anyTerm has every term.
var anyTerm = filter{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// has tells whether a term may be there, by its places (bloom.Locations). It is asked of bytes that were just read, ten thousand times a
// search, so that no bloom.BloomFilter is made of them.
func (f filter) has(places []uint64) bool {
	for _, place := range places {
		bit := place % uint64(8*len(f))
		if f[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

const (
	indexSuffix = ".index"
	indexMagic  = "pkcs11kms-index2"
	// minIndexed is the least size of a file that is worth an index.
	minIndexed = 16 << 10
	// bitsPerTerm and hashes make one part in two thousand read in vain.
	bitsPerTerm = 16
	hashes      = 8
	// mostFiltered bounds a filter: a part of the file to one of the filter. An index has at most a tenth of its file's size.
	mostFiltered = 11
	ends         = 4 << 10 // how much of a file's beginning and end its index knows
)

var errNoIndex = errors.New("it is no index of this file")

func (f file) indexPath() string { return strings.TrimSuffix(f.path, plainSuffix) + indexSuffix }

// indexer makes an index.
type indexer struct {
	parts          index
	at             int64               // where the next part begins
	terms          map[string]struct{} // of the part
	oldest, newest int64
}

func newIndexer() *indexer {
	return &indexer{terms: map[string]struct{}{}, oldest: math.MaxInt64, newest: math.MinInt64}
}

// line adds a record to the part.
func (x *indexer) line(line []byte) {
	termsOf(line, func(term []byte) {
		if _, ok := x.terms[string(term)]; !ok {
			x.terms[string(term)] = struct{}{}
		}
	})
	if at, ok := timeOf(line); ok {
		x.oldest, x.newest = min(x.oldest, at.Unix()), max(x.newest, at.Unix())
	}
}

// end ends a part that has so many bytes of the file.
func (x *indexer) end(size int64) {
	b := block{x.at, size, x.oldest, x.newest, x.filterOf(size)}
	if x.oldest > x.newest { // no record tells when it was
		b.oldest, b.newest = math.MinInt64, math.MaxInt64
	}
	x.parts = append(x.parts, b)
	x.at += size
	clear(x.terms)
	x.oldest, x.newest = math.MaxInt64, math.MinInt64
}

// filterOf makes the filter of a part of so many bytes.
func (x *indexer) filterOf(size int64) (bits filter) {
	words := max(1, min(int64(len(x.terms)*bitsPerTerm+63)/64, size/8/mostFiltered))
	f := bloom.New(uint(64*words), hashes)
	for term := range x.terms {
		f.Add([]byte(term))
	}
	for _, word := range f.BitSet().Words() {
		bits = binary.LittleEndian.AppendUint64(bits, word)
	}
	return bits
}

// timeOf is when a record was made, as it says.
func timeOf(line []byte) (at time.Time, ok bool) {
	_, rest, _ := bytes.Cut(line, []byte(`"eventTime":"`))
	text, _, _ := bytes.Cut(rest, []byte{'"'})
	at, err := time.Parse(time.RFC3339, string(text))
	return at, err == nil
}

// identify tells a compressed file from others.
func identify(f *os.File) (size int64, sum hash, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, sum, err
	}
	size = info.Size()
	h := sha256.New()
	for _, at := range []int64{0, max(0, size-ends)} {
		if _, err := io.Copy(h, io.NewSectionReader(f, at, min(size, ends))); err != nil {
			return 0, sum, err
		}
	}
	return size, hash(h.Sum(nil)), nil
}

// encode is how an index is kept: what it is of, its parts, and a checksum.
func (x index) encode(size int64, sum hash) []byte {
	b := append([]byte(indexMagic), sum[:]...)
	b = binary.AppendUvarint(b, uint64(size))
	b = binary.AppendUvarint(b, uint64(len(x)))
	for _, p := range x {
		b = binary.AppendUvarint(b, uint64(p.bytes))
		b = binary.AppendVarint(b, p.oldest)
		b = binary.AppendUvarint(b, uint64(p.newest)-uint64(p.oldest))
		b = append(binary.AppendUvarint(b, uint64(len(p.filter)/8)), p.filter...)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// decodeIndex reads an index of a file, which keeps the bytes. They may be anything.
func decodeIndex(b []byte, size int64, sum hash) (index, error) {
	begin := append([]byte(indexMagic), sum[:]...)
	if len(b) < len(begin)+4 || !bytes.HasPrefix(b, begin) {
		return nil, errNoIndex
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, errNoIndex
	}
	r := indexReader{b: b[len(begin):end]}
	if int64(r.unsigned()) != size {
		return nil, errNoIndex
	}
	var x index
	at := int64(0)
	for n := r.unsigned(); n > 0 && !r.bad; n-- {
		p := block{offset: at, bytes: int64(r.unsigned()), oldest: r.signed()}
		p.newest = int64(uint64(p.oldest) + r.unsigned())
		p.filter = r.filter()
		if at += p.bytes; p.bytes <= 0 || at > size {
			return nil, errNoIndex
		}
		x = append(x, p)
	}
	if r.bad || len(r.b) > 0 || at != size {
		return nil, errNoIndex
	}
	return x, nil
}

// indexReader reads what an index is made of. What is not there is bad.
type indexReader struct {
	b   []byte
	bad bool
}

func (r *indexReader) unsigned() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

func (r *indexReader) signed() int64 {
	v, n := binary.Varint(r.b)
	r.skip(n)
	return v
}

func (r *indexReader) skip(n int) {
	if n <= 0 {
		r.bad, r.b = true, nil
		return
	}
	r.b = r.b[n:]
}

func (r *indexReader) filter() (bits filter) {
	n := r.unsigned()
	if n == 0 || n > uint64(len(r.b)/8) {
		r.bad, r.b = true, nil
		return nil
	}
	bits, r.b = r.b[:8*n:8*n], r.b[8*n:]
	return bits
}

// readIndex reads the index of a compressed file; errNoIndex or fs.ErrNotExist where it has none that is of use. The buffer is what it is
// read into, and may be given to the next call when the index is not needed any more.
func readIndex(f file, buffer *bytes.Buffer) (index, error) {
	r, err := os.Open(f.indexPath())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	buffer.Reset()
	if _, err := buffer.ReadFrom(r); err != nil {
		return nil, err
	}
	packed, err := os.Open(f.name())
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	size, sum, err := identify(packed)
	if err != nil {
		return nil, err
	}
	return decodeIndex(buffer.Bytes(), size, sum)
}

// write puts an index beside its file.
func (x index) write(f file) (err error) {
	packed, err := os.Open(f.path + packedSuffix)
	if err != nil {
		return err
	}
	defer packed.Close()
	size, sum, err := identify(packed)
	if err != nil || size < minIndexed {
		return err
	}
	draft, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.indexPath())+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	_, err = draft.Write(x.encode(size, sum))
	err = errors.Join(err, draft.Close())
	if err == nil {
		err = os.Rename(draft.Name(), f.indexPath())
	}
	if err != nil {
		return errors.Join(err, os.Remove(draft.Name()))
	}
	return nil
}

// staleDraft is how old a draft of an index must be that nobody writes any more.
const staleDraft = time.Hour

// sweepIndexes removes what belongs to no file of a chain any more: indexes whose file was moved away, and drafts of processes that were
// killed.
func sweepIndexes(dir string, number int) error {
	paths, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("%06d-*%s*", number, indexSuffix)))
	if err != nil {
		return err
	}
	for _, path := range paths {
		base, rest, _ := strings.Cut(filepath.Base(path), indexSuffix)
		f, ok := parseName(filepath.Join(dir, base+plainSuffix))
		info, err := os.Lstat(path)
		if !ok || err != nil {
			continue
		}
		_, err = os.Stat(f.path + packedSuffix)
		if rest == "" && !errors.Is(err, fs.ErrNotExist) || rest != "" && time.Since(info.ModTime()) < staleDraft {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
