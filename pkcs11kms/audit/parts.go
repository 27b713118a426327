package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/bits-and-blooms/bloom/v3"
)

// part is a part of a file that may have records that a query asks for; bytes 0: the whole file.
type part struct {
	file file
	block
}

// partsOf returns what a query has to read, the newest first. Files that have no index get one.
func partsOf(ctx context.Context, dir string, q Query) (parts []part, err error) {
	found, err := list(dir)
	if err != nil {
		return nil, err
	}
	var without []file
	var buffer bytes.Buffer
	for _, number := range found.numbers() {
		for _, f := range found.files[number] {
			if !f.packed || sizeOf(f) < minIndexed {
				parts = append(parts, part{f, block{oldest: math.MinInt64, newest: math.MaxInt64}})
			} else if x, err := readIndex(f, &buffer); err == nil {
				parts = append(parts, q.partsIn(f, x)...)
			} else {
				without = append(without, f)
			}
		}
	}
	made, err := q.makeIndexes(ctx, without)
	if err != nil {
		return nil, err
	}
	parts = append(parts, made...)
	slices.SortFunc(parts, func(x, y part) int {
		return cmp.Or(cmp.Compare(y.newest, x.newest), cmp.Compare(y.file.number, x.file.number), cmp.Compare(y.file.first, x.file.first),
			cmp.Compare(y.offset, x.offset))
	})
	return parts, nil
}

func sizeOf(f file) int64 {
	info, err := os.Stat(f.name())
	if err != nil {
		return 0
	}
	return info.Size()
}

// makeIndexes makes the indexes of files, and returns the parts of them that a query has to read. An index that cannot be kept serves once.
func (q Query) makeIndexes(ctx context.Context, files []file) (parts []part, err error) {
	read, all := int64(0), int64(0)
	for _, f := range files {
		all += sizeOf(f)
	}
	tell := q.Progress
	if tell == nil {
		tell = func(int64, int64) {}
	}
	for _, f := range files {
		x, err := makeIndex(ctx, f, func(n int64) { tell(read+n, all) })
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", f.name(), err)
		}
		_ = x.write(f) // whoever may only read it has no index the next time
		parts = append(parts, q.partsIn(f, x)...)
		read += sizeOf(f)
		tell(read, all)
	}
	return parts, nil
}

// partsIn returns the parts of a file that may have what is asked for, as its index says.
func (q Query) partsIn(f file, x index) (parts []part) {
	var terms [][]uint64
	for _, term := range q.terms() {
		terms = append(terms, bloom.Locations(term, hashes))
	}
	for _, b := range x {
		if !q.Since.IsZero() && b.newest < q.Since.Unix() || !q.Until.IsZero() && b.oldest > q.Until.Unix() ||
			q.After != nil && b.oldest > q.After.Time.Unix() {
			continue
		}
		if !slices.ContainsFunc(terms, func(at []uint64) bool { return !b.filter.has(at) }) {
			b.filter = nil // it has served
			parts = append(parts, part{f, b})
		}
	}
	return parts
}

// makeIndex reads a compressed file. A file that was not packed in parts has one.
func makeIndex(ctx context.Context, f file, progress func(read int64)) (index, error) {
	r, err := os.Open(f.path + packedSuffix)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	src := &counter{r: bufio.NewReaderSize(r, 256<<10)}
	z, err := gzip.NewReader(src)
	x := newIndexer()
	for err == nil {
		z.Multistream(false)
		member := &lastByte{r: z, last: '\n'}
		n := 0
		err = eachLine(member, func(line []byte) error {
			x.line(line)
			if n++; n%1000 == 0 {
				progress(src.n)
			}
			return ctx.Err()
		})
		if err == nil && member.last != '\n' { // its last line goes on in the next one: they are no parts of ours
			return wholeIndex(src.n, src)
		}
		if err == nil {
			x.end(src.n - x.at)
			err = z.Reset(src)
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return x.parts, nil
}

// wholeIndex has one part, in which anything may be.
func wholeIndex(read int64, rest io.Reader) (index, error) {
	n, err := io.Copy(io.Discard, rest)
	return index{{0, read + n, math.MinInt64, math.MaxInt64, anyTerm}}, err
}

// counter counts what is read. It is an io.ByteReader, so that gzip takes no byte of the next member.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// lastByte knows the last byte that was read.
type lastByte struct {
	r    io.Reader
	last byte
}

func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.last = p[n-1]
	}
	return n, err
}

// staleError says that a file is not what its index says.
type staleError struct {
	file file
	err  error
}

func (s *staleError) Error() string { return fmt.Sprintf("%q: %v", s.file.name(), s.err) }

func (s *staleError) Unwrap() error { return s.err }

// trying reads anew when a file was found not to be what its index says: the index goes, and is made anew. A file of which that is found
// twice is damaged itself.
func trying(read func() error) error {
	dropped := map[string]bool{}
	for {
		err := read()
		stale, ok := errors.AsType[*staleError](err)
		if !ok || dropped[stale.file.path] {
			return err
		}
		dropped[stale.file.path] = true
		if err := os.Remove(stale.file.indexPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(stale, err)
		}
	}
}

// partReader reads one part after the other.
type partReader struct {
	ctx  context.Context
	path string
	file *os.File // nil: none
	z    *gzip.Reader
}

func (r *partReader) close() {
	if r.file != nil {
		_ = r.file.Close() // it was read
	}
}

// read calls use with the lines of a part. A line is good until use returns.
func (r *partReader) read(p part, use func(line []byte) error) error {
	patient := func(line []byte) error {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		return use(line)
	}
	if p.bytes == 0 && !p.file.packed {
		return linesBackwards(p.file, patient)
	}
	if p.bytes == 0 {
		return fileLines(p.file, patient)
	}
	if err := r.open(p.file.name()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since the directory was read
		}
		return err
	}
	src := bufio.NewReaderSize(io.NewSectionReader(r.file, p.offset, p.bytes), int(min(p.bytes, 64<<10)))
	var err error
	if r.z == nil {
		r.z, err = gzip.NewReader(src)
	} else {
		err = r.z.Reset(src)
	}
	if err != nil {
		r.z = nil
		return &staleError{p.file, err}
	}
	var outside error // of use
	err = eachLine(r.z, func(line []byte) error {
		outside = patient(line)
		return outside
	})
	if err != nil && outside == nil {
		return &staleError{p.file, err}
	}
	return err
}

func (r *partReader) open(path string) error {
	if r.file != nil && r.path == path {
		return nil
	}
	r.close()
	var err error
	r.file, err = os.Open(path)
	if err != nil {
		r.file = nil
	}
	r.path = path
	return err
}
