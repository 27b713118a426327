package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// What is older than is to be kept, or more, is removed by whole closed files, the oldest of a chain first. Before that a seal tells of
// each chain that has lost its beginning up to where that is, and names all chains, and the store knows of it: so verification tells what
// has expired from what somebody has taken away. A record would not do, since whoever can write to the directory can make one up, in a
// chain that nobody writes to, and have it sealed.

// expireInterval is how often is looked for what has expired.
const expireInterval = time.Hour

// keptFiles are the newest of each chain, which stay in any case.
const keptFiles = 2

// expire removes what has expired.
func (s *sealing) expire(ctx context.Context) error {
	if o := s.l.o; o.KeepAge <= 0 && o.KeepBytes <= 0 || time.Since(s.expired) < expireInterval {
		return nil
	}
	s.expired = time.Now()
	p, err := s.planExpiry(ctx)
	if err != nil || len(p.remove) == 0 {
		return err
	}
	if err := s.seal(ctx, addition{gone: p.gone}); err != nil { // which names all chains, and stays
		return err
	}
	if err := s.keep(ctx); err != nil {
		return err
	}
	for _, f := range p.remove {
		for _, path := range []string{f.name(), f.indexPath()} {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	s.l.o.Logger.Info("files of the audit log have expired", "files", len(p.remove))
	return syncDir(s.l.dir)
}

// expiry is what is to be removed, and the last record of each chain that has gone then, or had before.
type expiry struct {
	remove []file
	gone   []Head
}

// beginning is that of a chain: its files, of which the first so many are to be removed.
type beginning struct {
	files  []file
	remove int
}

// planExpiry looks for what has expired. A chain whose beginning has gone without a seal that tells so is left alone.
func (s *sealing) planExpiry(ctx context.Context) (p expiry, err error) {
	l := s.l
	found, err := list(l.dir)
	if err != nil {
		return p, err
	}
	before, err := s.expiredBefore(ctx, found, s.by.Check)
	if err != nil {
		return p, err
	}
	var chains []*beginning
	for _, number := range sortedKeys(found.files) {
		files := found.files[number]
		first, err := firstLink(files[0])
		if err != nil || !begins(files[0], first, before[first.chain]) {
			continue
		}
		chains = append(chains, &beginning{files: files})
	}
	l.tooOld(chains)
	l.tooMany(found, chains)
	for _, c := range chains {
		rest := c.files[c.remove]
		if rest.first == 1 {
			continue
		}
		first, err := firstLink(rest)
		if err != nil {
			return p, err
		}
		p.gone = append(p.gone, Head{Chain: first.chain, Seq: rest.first - 1, Hash: hexOf(first.prev)})
		p.remove = append(p.remove, c.files[:c.remove]...)
	}
	return p, nil
}

// begins tells whether a chain begins with its first record, or with what came after those that have expired.
func begins(f file, first link, gone Head) bool {
	return f.first == first.seq && (f.first == 1 || f.first == gone.Seq+1 && hexOf(first.prev) == gone.Hash)
}

// next is the file that is removed next, if there is one that may be: it is compressed, so that nobody works on it any more.
func (c *beginning) next() (f file, ok bool) {
	if c.remove+keptFiles >= len(c.files) {
		return f, false
	}
	f = c.files[c.remove]
	return f, f.packed
}

// tooOld marks the files all of whose records are too old: the file after them began so long ago.
func (l *Log) tooOld(chains []*beginning) {
	if l.o.KeepAge <= 0 {
		return
	}
	for _, c := range chains {
		for _, ok := c.next(); ok; _, ok = c.next() {
			began, known := firstTime(c.files[c.remove+1])
			if !known || l.o.Now().Sub(began) < l.o.KeepAge {
				break
			}
			c.remove++
		}
	}
}

// tooMany marks the oldest files while all are together longer than is to be kept.
func (l *Log) tooMany(found listing, chains []*beginning) {
	if l.o.KeepBytes <= 0 {
		return
	}
	total := int64(0)
	for _, files := range found.files {
		for _, f := range files {
			total += bytesOf(f)
		}
	}
	for _, c := range chains {
		for _, f := range c.files[:c.remove] {
			total -= bytesOf(f)
		}
	}
	for total > l.o.KeepBytes {
		var oldest *beginning
		var since time.Time
		for _, c := range chains {
			f, ok := c.next()
			began, known := firstTime(f)
			if ok && known && (oldest == nil || began.Before(since)) {
				oldest, since = c, began
			}
		}
		if oldest == nil {
			return
		}
		total -= bytesOf(oldest.files[oldest.remove])
		oldest.remove++
	}
}

// bytesOf is how much of the disk a file takes, with its index.
func bytesOf(f file) (bytes int64) {
	for _, path := range []string{f.name(), f.indexPath()} {
		if info, err := os.Stat(path); err == nil {
			bytes += info.Size()
		}
	}
	return bytes
}

// firstLink is the place of the first record of a file.
func firstLink(f file) (link, error) {
	r, err := openFile(f)
	if err != nil {
		return link{}, err
	}
	defer r.Close()
	line, _ := newLineReader(r).next()
	return linkOf(line)
}

// expiredBefore is what has expired, as the newest valid seals tell that tell of it: by the key that check knows, which has signed what was
// told before it with the key of before. They are looked for where a chain has lost its beginning.
func (s *sealing) expiredBefore(
	ctx context.Context, found listing, check func(context.Context, []byte, Signature) error,
) (map[string]Head, error) {
	gone := map[string]Head{}
	lost := false
	for _, files := range found.files {
		lost = lost || len(files) > 0 && files[0].first > 1
	}
	if !lost {
		return gone, nil
	}
	for _, name := range []string{expiryName, handoverName} {
		lines, err := Search(ctx, s.l.dir, Query{EventName: name, Max: maxExpiries})
		if err != nil {
			return gone, err
		}
		for _, line := range lines {
			seal := sealOf(line)
			if seal == nil || seal.err != nil {
				continue
			}
			by := seal.by
			if seal.next != nil {
				by = seal.co
			}
			if check(ctx, seal.text, by) == nil {
				addExpired(gone, seal.gone)
			}
		}
	}
	return gone, nil
}

// maxExpiries is how many of the newest seals that tell of expiries are looked at: one tells of all, unless several processes made them.
const maxExpiries = 20

// addExpired adds what a seal tells: of two, the one that tells more counts.
func addExpired(gone map[string]Head, heads []Head) {
	for _, h := range heads {
		if h.Seq > gone[h.Chain].Seq {
			gone[h.Chain] = h
		}
	}
}

// append appends a line of a seal's text.
func (h Head) append(b []byte) []byte { return fmt.Appendf(b, "%s %d %s\n", h.Chain, h.Seq, h.Hash) }

// parseHead reads one without its end.
func parseHead(line string) (Head, error) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isChainID(parts[0]) {
		return Head{}, fmt.Errorf("%q names no record", line)
	}
	seq, err := strconv.ParseUint(parts[1], 10, 64)
	if sum, err2 := hex.DecodeString(parts[2]); err != nil || err2 != nil || len(sum) != len(hash{}) {
		return Head{}, fmt.Errorf("%q names no record", line)
	}
	return Head{Chain: parts[0], Seq: seq, Hash: parts[2]}, nil
}
