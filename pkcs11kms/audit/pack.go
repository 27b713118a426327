package audit

import (
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
		if err := pack(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("a closed file of the audit log stays uncompressed", "file", f.path, "error", err)
		}
	}
}

// pack compresses a file. The compressed one gets its name when it is whole, and the other goes after that.
func pack(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	draft := path + packedSuffix + ".tmp"
	out, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed) // it costs calls their time, as much as the writing does
	if err != nil {
		return errors.Join(err, out.Close(), os.Remove(draft))
	}
	_, err = io.Copy(z, in)
	err = errors.Join(err, z.Close(), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(draft, path+packedSuffix)
	}
	if err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	return os.Remove(path)
}
