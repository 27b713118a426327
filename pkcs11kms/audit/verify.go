package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Head is the place of a chain's last record at some time. Kept elsewhere, it shows later that nothing before it was cut off.
type Head struct {
	Chain string `json:"chain"`
	Seq   uint64 `json:"seq"`
	Hash  string `json:"hash"` // SHA-256 of the record's line, in hexadecimal
	File  string `json:"file"` // the name of the one that has it
}

// Problem is a place where the records are not what was written.
type Problem struct {
	File  string `json:"file"`
	Line  int    `json:"line,omitempty"` // from 1; 0: the file as a whole
	Chain string `json:"chain,omitempty"`
	Seq   uint64 `json:"seq,omitempty"` // of the record; 0: none
	Text  string `json:"text"`
}

// String tells where it is, and what.
func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at += fmt.Sprintf(":%d", p.Line)
	}
	if p.Seq > 0 {
		at += fmt.Sprintf(": record %d of chain %s", p.Seq, p.Chain)
	}
	return at + ": " + p.Text
}

// Verification is what was found in an audit log.
type Verification struct {
	Files   int      `json:"files"`
	Records uint64   `json:"records"`
	Heads   []Head   `json:"heads"` // of the chains, in the order of their numbers
	Notes   []string `json:"notes"` // what is no fault, and to be known
	// Problems are in the order of chains and records. Where there is one, what comes after it is compared with what follows there.
	Problems []Problem `json:"problems"`

	Seals    int       `json:"seals"`    // valid ones; without Known.Check, all
	LastSeal time.Time `json:"lastSeal"` // the time of the newest; zero: there is none
	// Unsealed is what no valid seal covers, in the order of the chains; with Known.Check alone.
	Unsealed []Unsealed `json:"unsealed"`
	// Check is Known.Check, and knows the keys that seals tell of which have followed others; nil without that.
	Check func(text []byte, s Signature) error `json:"-"`
}

// VerifyDir reads all chains of a directory, whether somebody writes to them or not, and finds what was changed, taken out, put elsewhere
// or cut off behind the log's back: each record holds the hash of the one before. That shows nothing of the end of a chain, and of one that
// was made anew, with right hashes: those show by seals, and by what was kept elsewhere.
func VerifyDir(dir string, known Known) (*Verification, error) {
	found, err := list(dir)
	if err != nil {
		return nil, err
	}
	v := newVerifier(known, true)
	for _, number := range found.numbers() {
		v.readSeals(found.files[number])
	}
	v.countSeals()
	for _, number := range found.numbers() {
		files := found.files[number]
		if len(files) > 0 {
			if err := v.chain(files); err != nil {
				return nil, err
			}
			continue
		}
		if id, err := os.ReadFile(lockPath(dir, number)); err == nil && isChainID(string(bytes.TrimSpace(id))) {
			v.problem(Problem{File: filepath.Base(lockPath(dir, number)), Chain: string(bytes.TrimSpace(id)),
				Text: "all files of the chain have gone"})
		}
	}
	return v.end(), nil
}

// VerifyFiles reads some files of an audit log, which may lie anywhere under the names that they had in it. What comes before the first
// file of a chain is not looked at.
func VerifyFiles(paths []string, known Known) (*Verification, error) {
	chains := map[string][]file{} // by directory and number
	var order []string
	for _, path := range paths {
		f, ok := parseName(path)
		if !ok {
			return nil, fmt.Errorf("%q is not named like a file of an audit log, such as %s.gz", path, filepath.Base(filePath("", 1, 1)))
		}
		key := fmt.Sprintf("%s %06d", filepath.Dir(path), f.number)
		if chains[key] == nil {
			order = append(order, key)
		}
		chains[key] = append(chains[key], f)
	}
	v := newVerifier(known, false)
	for _, key := range order {
		slices.SortStableFunc(chains[key], func(x, y file) int { return int(min(1, max(-1, int64(x.first)-int64(y.first)))) })
		v.readSeals(chains[key])
	}
	v.countSeals()
	for _, key := range order {
		files := chains[key]
		if err := v.chain(files); err != nil {
			return nil, err
		}
	}
	return v.end(), nil
}

// Heads returns the last records of all chains of a directory, without reading what is before them.
func Heads(dir string) (heads []Head, err error) {
	found, err := list(dir)
	if err != nil {
		return nil, err
	}
	for _, number := range found.numbers() {
		if len(found.files[number]) == 0 {
			continue
		}
		end, err := endOf(found.files[number])
		if err != nil {
			return nil, err
		}
		if end.last != nil {
			heads = append(heads, Head{Chain: end.place.chain, Seq: end.place.seq, Hash: hexOf(end.place.prev),
				File: strings.TrimSuffix(filepath.Base(end.file), freshSuffix)})
		}
	}
	return heads, nil
}

// Size is that of the files of a directory, in bytes. fs.ErrNotExist where there is no log.
func Size(dir string) (bytes int64, err error) {
	found, err := list(dir)
	if err != nil {
		return 0, err
	}
	for _, files := range found.files {
		for _, f := range files {
			bytes += bytesOf(f)
		}
	}
	return bytes, nil
}

// verifier reads chains one after the other.
type verifier struct {
	out    Verification
	known  Known
	whole  bool                          // all files of a directory are read, and each chain begins with its first record
	claims map[string]map[uint64][]claim // by chain and record
	seals  sealsRead

	followed followed
	last     map[string]uint64 // the last record of each chain that was read

	// of the chain that is read
	expect  link // the place that the next record must have; no chain: any
	before  string
	current string // the name of the file
	path    string // without .gz
	line    int
	head    Head
}

func newVerifier(known Known, whole bool) *verifier {
	v := &verifier{known: known, whole: whole, claims: map[string]map[uint64][]claim{}, last: map[string]uint64{},
		seals: sealsRead{at: map[placeOf]*seal{}, upTo: map[string]uint64{}, gone: map[string]Head{}}}
	for _, h := range known.Heads {
		v.claim(h, claim{hash: h.Hash})
	}
	return v
}

func (v *verifier) problem(p Problem) { v.out.Problems = append(v.out.Problems, p) }

// found tells of a problem with the record that is read.
func (v *verifier) found(at link, format string, values ...any) {
	v.problem(Problem{File: v.current, Line: v.line, Chain: at.chain, Seq: at.seq, Text: fmt.Sprintf(format, values...)})
}

// chain reads the files of one chain.
func (v *verifier) chain(files []file) error {
	v.expect, v.before, v.head = v.start(files), "", Head{}
	if !v.whole {
		v.expect.seq = files[0].first
		if files[0].first > 1 {
			v.out.Notes = append(v.out.Notes, fmt.Sprintf("%s: what was recorded before it is not looked at", filepath.Base(files[0].name())))
		}
	}
	for i, f := range files {
		v.out.Files++
		if err := v.file(f, i == 0 && !v.whole && f.first > 1, i == len(files)-1); err != nil {
			return err
		}
	}
	if v.head.Seq > 0 {
		v.out.Heads = append(v.out.Heads, v.head)
	}
	return nil
}

// openNamed opens a file by the name that it has now: it may have got another one since the directory was read, and been compressed.
func openNamed(f file) (*os.File, file, error) {
	r, err := os.Open(f.name())
	if errors.Is(err, fs.ErrNotExist) && f.fresh {
		f.fresh = false
		r, err = os.Open(f.name())
	}
	if errors.Is(err, fs.ErrNotExist) && !f.packed {
		f.packed = true
		r, err = os.Open(f.name())
	}
	return r, f, err
}

// openFile opens a file for reading what was recorded in it.
func openFile(f file) (io.ReadCloser, error) {
	r, f, err := openNamed(f)
	if err != nil || !f.packed {
		return r, err
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%q: %w", f.name(), err), r.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{z, r}, nil
}

// file reads a file. anyStart: nothing is known of what was before it.
func (v *verifier) file(f file, anyStart, last bool) error {
	r, err := openFile(f)
	if err != nil && errors.Is(err, fs.ErrNotExist) {
		return err
	}
	v.current, v.path, v.line = filepath.Base(f.name()), f.path, 0
	if err != nil {
		v.problem(Problem{File: v.current, Text: err.Error()})
		return nil
	}
	defer r.Close()
	if !anyStart && f.first != v.expect.seq {
		v.problem(Problem{File: v.current, Text: fmt.Sprintf("it begins with record %d by its name, where %d was to follow: "+
			"a file is missing, or records before it are", f.first, v.expect.seq)})
		v.expect.seq, anyStart = f.first, true
	}
	lines := newLineReader(r)
	for line, whole := lines.next(); line != nil; {
		v.line++
		next, nextWhole := lines.next()
		switch {
		case next != nil && tells(next, line):
			v.out.Notes = append(v.out.Notes, fmt.Sprintf("%s:%d: a record that was half written when the process ended, as the next one tells",
				v.current, v.line))
		case !whole && last:
			v.out.Notes = append(v.out.Notes, fmt.Sprintf("%s:%d: a record at the end is half written", v.current, v.line))
		default:
			anyStart = v.record(line, anyStart)
		}
		line, whole = next, nextWhole
	}
	if lines.err != nil {
		v.problem(Problem{File: v.current, Line: v.line + 1, Text: "it cannot be read: " + lines.err.Error()})
	}
	return nil
}

// record checks one record, and expects the next one.
func (v *verifier) record(line []byte, anyStart bool) (still bool) {
	v.out.Records++
	at, err := linkOf(line)
	if err != nil {
		v.found(link{}, "%v: it was changed, in the place of record %d", err, v.expect.seq)
		v.expect.seq++
		return true
	}
	switch {
	case v.expect.chain != "" && at.chain != v.expect.chain:
		v.found(at, "it is of another chain than %s", v.expect.chain)
	case anyStart && at.seq >= v.expect.seq:
		if at.seq > v.expect.seq && v.expect.chain != "" {
			v.found(at, "records are missing before it, from %d on", v.expect.seq)
		}
	case at.seq > v.expect.seq:
		v.found(at, "records %d to %d are missing before it", v.expect.seq, at.seq-1)
	case at.seq < v.expect.seq:
		v.found(at, "it is not in its place, where record %d was to follow", v.expect.seq)
	case at.prev != v.expect.prev:
		v.found(at, "the record before it, %d, is not the one that was written there, or its own hash of that was changed", at.seq-1)
	}
	sum := hashOf(line)
	for _, c := range v.claims[at.chain][at.seq] {
		if !strings.EqualFold(c.hash, hexOf(sum)) {
			v.found(at, "it is not the record that %v names", c)
		}
	}
	v.sealed(at, line)
	v.expect = link{chain: at.chain, seq: at.seq + 1, prev: sum}
	v.head = Head{Chain: at.chain, Seq: at.seq, Hash: hexOf(sum), File: v.current}
	v.last[at.chain] = max(v.last[at.chain], at.seq)
	return false
}

// end compares the chains with the heads.
func (v *verifier) end() *Verification {
	if v.known.Check != nil {
		v.out.Check = v.signed
	}
	for _, h := range v.known.Heads {
		switch last, ok := v.last[h.Chain]; {
		case !ok:
			v.problem(Problem{Chain: h.Chain, Seq: h.Seq, File: "head", Text: "the chain has gone"})
		case last < h.Seq:
			v.problem(Problem{Chain: h.Chain, Seq: h.Seq, File: "head",
				Text: fmt.Sprintf("the chain ends with record %d: what came after it was cut off", last)})
		}
	}
	v.endSeals()
	return &v.out
}

// lineReader reads lines, with their ends known.
type lineReader struct {
	r   *bufio.Reader
	err error // other than the end
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(r, 64<<10)} }

// maxLine is more than the longest line that is written.
const maxLine = 2 << 20

// next returns a line without its end, and whether it had one; nil at the end.
func (l *lineReader) next() (line []byte, whole bool) {
	for {
		piece, err := l.r.ReadSlice('\n')
		line = append(line, piece...)
		if errors.Is(err, bufio.ErrBufferFull) && len(line) < maxLine {
			continue
		}
		switch {
		case err == nil:
			return line[: len(line)-1 : len(line)-1], true
		case errors.Is(err, bufio.ErrBufferFull):
			l.err = errors.New("a line is too long")
			return nil, false
		case !errors.Is(err, io.EOF):
			l.err = err
		}
		return line, false
	}
}
