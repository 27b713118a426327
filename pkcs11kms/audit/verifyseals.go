package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// Known is what a log is compared with. What is left out is not compared.
type Known struct {
	Heads []Head // that were kept elsewhere
	// Check tells whether a signature of a seal's text is valid: see SealKeys. Nil: signatures are not looked at.
	Check func(text []byte, s Signature) error
	// Sealed tells of each chain up to which record it was sealed at some time: see Sealer.Keep.
	Sealed map[string]uint64
	// MustBeSealed makes it a problem that Check finds no seal valid.
	MustBeSealed bool
}

// Unsealed is what comes after the last valid seal of a chain: nothing shows that it is what was written there.
type Unsealed struct {
	Chain   string    `json:"chain"`
	Seq     uint64    `json:"seq"`  // of the first such record
	Time    time.Time `json:"time"` // which it has
	Records uint64    `json:"records"`
}

// claim is what a head or a seal says of a record.
type claim struct {
	hash string
	by   *seal // nil: a head
}

func (c claim) String() string {
	if c.by == nil {
		return "the head"
	}
	return fmt.Sprintf("the seal in %s:%d", filepath.Base(c.by.file), c.by.line)
}

// placeOf is where a line is: the path of the file, without .gz, and its number.
type placeOf struct {
	path string
	line int
}

// sealsRead are the seals of the files that are verified, which are looked for first: a seal names records of any file.
type sealsRead struct {
	at     map[placeOf]*seal
	all    []*seal // those that are written as seals are, chain by chain in their order
	valid  int
	newest time.Time
	upTo   map[string]uint64 // the last record of each chain that a valid one names
	gone   map[string]Head   // by chain, what has expired, as those tell
}

func (v *verifier) claim(h Head, c claim) {
	if v.claims[h.Chain] == nil {
		v.claims[h.Chain] = map[uint64][]claim{}
	}
	v.claims[h.Chain][h.Seq] = append(v.claims[h.Chain][h.Seq], c)
}

// readSeals looks for the seals of files. What cannot be read is told when the records are.
func (v *verifier) readSeals(files []file) {
	for _, f := range files {
		r, err := openFile(f)
		if err != nil {
			continue
		}
		lines := newLineReader(r)
		number := 0
		for line, whole := lines.next(); line != nil; line, whole = lines.next() {
			number++
			s := sealOf(line)
			if s == nil || !whole {
				continue
			}
			s.file, s.line = f.path, number
			v.seals.at[placeOf{f.path, number}] = s
			v.readSeal(s, line)
		}
		_ = r.Close() // was only read
	}
}

// readSeal takes up a seal. One that says nothing good of its own chain is none.
func (v *verifier) readSeal(s *seal, line []byte) {
	at, err := linkOf(line)
	if err != nil {
		return
	}
	s.at = at
	after := func(h Head) bool { return h.Chain == at.chain && h.Seq >= at.seq }
	switch {
	case s.err != nil:
	case slices.ContainsFunc(s.heads, after):
		s.err = errors.New("it names itself, or what comes after it")
	default:
		v.seals.all = append(v.seals.all, s)
	}
}

// countSeals tells which seals are valid, once all were read, and notes what they say.
func (v *verifier) countSeals() {
	if v.known.Check != nil {
		v.follow()
	}
	later, idle := map[string]map[string]bool{}, map[string]int{}
	for _, s := range v.seals.all {
		chain := s.at.chain
		if later[chain] == nil {
			later[chain] = map[string]bool{}
		}
		if v.known.Check != nil {
			v.judge(s, later[chain])
		}
		switch {
		case s.err != nil:
		case s.idle != "":
			idle[fmt.Sprintf("chain %s: %s, and do not count: %%d", chain, s.idle)]++
		default:
			v.countSeal(s)
		}
	}
	for _, note := range sortedKeys(idle) {
		v.out.Notes = append(v.out.Notes, fmt.Sprintf(note, idle[note]))
	}
}

func (v *verifier) countSeal(s *seal) {
	v.seals.valid++
	if s.time.After(v.seals.newest) {
		v.seals.newest = s.time
	}
	addExpired(v.seals.gone, s.gone)
	for _, h := range s.heads {
		v.claim(h, claim{h.Hash, s})
		v.seals.upTo[h.Chain] = max(v.seals.upTo[h.Chain], h.Seq)
	}
}

// start is the place that the first record of a chain must have.
func (v *verifier) start(files []file) link {
	if files[0].first == 1 || !v.whole {
		return link{seq: 1}
	}
	first, err := firstLink(files[0])
	gone := v.seals.gone[first.chain]
	if err != nil || files[0].first != gone.Seq+1 {
		return link{seq: 1}
	}
	start := link{chain: first.chain, seq: files[0].first}
	if _, err := hex.Decode(start.prev[:], []byte(gone.Hash)); err != nil {
		return link{seq: 1}
	}
	v.out.Notes = append(v.out.Notes, fmt.Sprintf("the records 1 to %d of chain %s have expired, as a seal tells", gone.Seq, gone.Chain))
	return start
}

// sealed compares a record with what seals say.
func (v *verifier) sealed(at link, line []byte) {
	s := v.seals.at[placeOf{v.path, v.line}]
	if s == nil {
		s = sealOf(line) // which was written meanwhile, and says nothing of what was there
	} else if s.err != nil {
		v.found(at, "the seal is not valid: %v", s.err)
	}
	if v.known.Check == nil || at.seq <= v.seals.upTo[at.chain] || s != nil {
		return
	}
	list := &v.out.Unsealed
	if n := len(*list); n == 0 || (*list)[n-1].Chain != at.chain {
		first := Unsealed{Chain: at.chain, Seq: at.seq}
		first.Time, _ = timeOf(line)
		*list = append(*list, first)
	}
	(*list)[len(*list)-1].Records++
}

// endSeals tells what seals and the store say of records that are not there.
func (v *verifier) endSeals() {
	v.out.Seals, v.out.LastSeal = v.seals.valid, v.seals.newest
	for _, chain := range sortedKeys(v.claims) {
		seqs := sortedKeys(v.claims[chain])
		for _, seq := range slices.Backward(seqs) {
			i := slices.IndexFunc(v.claims[chain][seq], func(c claim) bool { return c.by != nil })
			if i < 0 {
				continue
			}
			v.endSeal(chain, seq, v.claims[chain][seq][i])
			break // earlier ones say no more
		}
	}
	for _, chain := range sortedKeys(v.known.Sealed) {
		v.endStore(chain, v.known.Sealed[chain])
	}
	if v.known.MustBeSealed && v.out.Records > 0 && v.seals.valid == 0 {
		v.problem(Problem{File: "seals", Text: "there is no valid one: nothing shows that this is what was written"})
	}
}

// endSeal compares the last record of a chain that seals name with the chain's end.
func (v *verifier) endSeal(chain string, seq uint64, c claim) {
	last, ok := v.last[chain]
	p := Problem{File: filepath.Base(c.by.file), Line: c.by.line, Chain: chain, Seq: seq}
	switch {
	case ok && last >= seq:
	case !v.whole && ok:
		v.out.Notes = append(v.out.Notes, fmt.Sprintf("chain %s: these files end with record %d, and %v names record %d", chain, last, c, seq))
	case !v.whole:
	case ok:
		p.Text = fmt.Sprintf("the seal names it, and the chain ends with record %d: what came after that was cut off", last)
		v.problem(p)
	default:
		p.Text = "the seal names it, and the chain has gone"
		v.problem(p)
	}
}

// endStore compares a chain with what the store knows of it.
func (v *verifier) endStore(chain string, seq uint64) {
	last, ok := v.last[chain]
	p := Problem{File: "store", Chain: chain, Seq: seq}
	switch {
	case !ok:
		p.Text = "the store knows a seal of it, and the chain has gone"
	case last < seq:
		p.Text = fmt.Sprintf("the store knows a seal of it, and the chain ends with record %d: what came after that was cut off", last)
	case v.seals.upTo[chain] < seq:
		p.Text = "the store knows a seal of it, and there is no valid one: the chain, or the one with the seal, was made anew"
	default:
		return
	}
	v.problem(p)
}
