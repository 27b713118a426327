package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
)

// packer compresses closed files.
type packer struct {
	mu    sync.Mutex // guards files
	files []file
	some  chan struct{} // has one where there are files
	busy  sync.Mutex    // held while compressing
}

// later has files compressed soon; those that are, stay.
func (p *packer) later(files []file) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range files {
		if !f.packed {
			p.files = append(p.files, f)
		}
	}
	select {
	case p.some <- struct{}{}:
	default:
	}
}

// run compresses what comes until stop is closed.
func (p *packer) run(stop <-chan struct{}, log *slog.Logger) {
	for {
		select {
		case <-stop:
			return
		case <-p.some:
			p.rest(log)
		}
	}
}

// rest compresses the files that wait for it. One that fails stays as it is, until the next process that writes to the chain.
func (p *packer) rest(log *slog.Logger) {
	p.busy.Lock()
	defer p.busy.Unlock()
	for {
		p.mu.Lock()
		if len(p.files) == 0 {
			p.mu.Unlock()
			return
		}
		f := p.files[0]
		p.files = p.files[1:]
		p.mu.Unlock()
		if err := pack(f, log); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("a closed file of the audit log stays uncompressed", "file", f.path, "error", err)
		}
	}
}

// pack compresses a file. The compressed one gets its name when it is whole, then its index, and the other goes after that.
func pack(f file, log *slog.Logger) error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	draft := f.path + packedSuffix + ".tmp"
	out, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	x, err := packTo(out, in)
	err = errors.Join(err, out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(draft, f.path+packedSuffix)
	}
	if err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	if err := x.write(f); err != nil {
		log.Warn("a closed file of the audit log has no index until it is searched", "file", f.path, "error", err)
	}
	return os.Remove(f.path)
}

// partBytes is how much of a file is compressed together, at least: what a search has to unpack for one record.
const partBytes = 256 << 10

// packTo compresses lines in parts that can each be unpacked by itself: gzip members, which are one file for whatever reads gzip.
func packTo(w io.Writer, lines io.Reader) (index, error) {
	out := &counted{w: w}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed) // it costs calls their time, as much as the writing does
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(lines, 64<<10)
	x := newIndexer()
	var part []byte
	for ended := false; !ended; {
		if part, ended, err = readPart(r, part[:0]); err != nil {
			return nil, err
		}
		if len(part) == 0 && x.at > 0 {
			break
		}
		z.Reset(out)
		if _, err := z.Write(part); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		for line := range bytes.Lines(part) {
			x.line(line)
		}
		x.end(out.n - x.at)
	}
	return x.parts, nil
}

// readPart reads as many whole lines as a part has, or what is left.
func readPart(r *bufio.Reader, part []byte) (_ []byte, ended bool, err error) {
	for {
		piece, err := r.ReadSlice('\n')
		part = append(part, piece...)
		switch {
		case errors.Is(err, io.EOF):
			return part, true, nil
		case err == nil && len(part) >= partBytes:
			return part, false, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return part, false, err
		}
	}
}

// counted counts what is written.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
