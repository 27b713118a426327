package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A backup or a restore that is killed leaves its draft, which may be in any directory. So it writes down where the draft is, in a note
// beside the locks of the instances, before it makes it. It holds an flock on the note for as long as it lives: whoever gets that lock
// has proved that nobody works on the draft. As with the locks of instances, a copy of the note in a copied state directory proves
// nothing; the note says of which file it is the content.

// noteSuffix is that of the names of notes.
const noteSuffix = ".draft"

// maxNote bounds what is read of a note; a path has at most 4096 bytes.
const maxNote = 64 << 10

// draftName is what draftOf makes of any name.
var draftName = regexp.MustCompile(`^\..+\.new-[0-9a-f]{32}$`)

// note says that a process makes a draft.
type note struct {
	Draft string `json:"draft"` // absolute path
	File  string `json:"file"`  // which file this note is, see fileOf
}

// fileOf tells a file from its copies, whatever the system was started since.
func fileOf(f *os.File) (string, error) {
	st, born, err := birthOf(f)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %d.%d", st.Ino, born.Sec, born.Nsec), nil
}

// noteDraft writes down that this process is about to make a draft. done removes the note.
func noteDraft(locks, draft string) (done func(), err error) {
	if draft, err = filepath.Abs(draft); err != nil {
		return nil, err
	}
	// The note gets its name when it is locked and complete, as the lock of an instance does.
	name := randomHex()
	path := filepath.Join(locks, name+noteSuffix)
	f, err := os.OpenFile(filepath.Join(locks, "."+name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := fillNote(f, draft, path); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return func() { _ = unlock(f, path, true) }, syncFile(locks) // a note that stays names a draft that is gone
}

func fillNote(f *os.File, draft, path string) error {
	if err := flock(f); err != nil {
		return err
	}
	file, err := fileOf(f)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(f).Encode(note{draft, file}); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// deadDraft is a draft that a killed process has left, and the note of it, locked by this process.
type deadDraft struct {
	path, note string
	file       *os.File
}

// files are those of the draft that are there.
func (d deadDraft) files() (there []string) {
	for _, suffix := range append([]string{"", ".locks"}, journals...) {
		if _, err := os.Lstat(d.path + suffix); err == nil {
			there = append(there, d.path+suffix)
		}
	}
	return there
}

// deadDrafts finds what killed processes have left. The caller must release each. Notes that cannot be read are left alone.
func deadDrafts(locks string) ([]deadDraft, error) {
	entries, err := os.ReadDir(locks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var dead []deadDraft
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), noteSuffix) {
			continue
		}
		path := filepath.Join(locks, entry.Name())
		f, err := lockFile(path)
		if err != nil {
			continue // somebody is at work on it, or it is gone
		}
		draft, ok := readNote(f)
		if !ok {
			_ = f.Close() // was only read
			continue
		}
		dead = append(dead, deadDraft{draft, path, f})
	}
	return dead, err
}

// readNote returns the draft of a note, unless the note is a copy or not of the form that this program writes.
func readNote(f *os.File) (draft string, ok bool) {
	text, err := io.ReadAll(io.LimitReader(f, maxNote))
	var n note
	if err != nil || json.Unmarshal(text, &n) != nil {
		return "", false
	}
	file, err := fileOf(f)
	return n.Draft, err == nil && file == n.File && filepath.IsAbs(n.Draft) && draftName.MatchString(filepath.Base(n.Draft))
}

// DeadDrafts returns the files that backups and restores of a store have left half made, by path, because they were killed. The next
// backup removes them.
func DeadDrafts(path string) (files []string, err error) {
	return draftsIn(filepath.Join(filepath.Dir(path), locksName))
}

// DeadDrafts implements keystore.Backuper.
func (s *Store) DeadDrafts() ([]string, error) { return draftsIn(s.locks) }

func draftsIn(locks string) (files []string, err error) {
	dead, err := deadDrafts(locks)
	for _, d := range dead {
		files = append(files, d.files()...)
		_ = unlock(d.file, d.note, false) // was only read
	}
	return files, err
}

// removeDrafts removes what DeadDrafts names, and the notes of it. What cannot be removed is tried again by the next backup.
func (s *Store) removeDrafts() {
	dead, err := deadDrafts(s.locks)
	if err != nil {
		s.logger.Warn("looking for what killed backups have left", "path", s.locks, "error", err)
	}
	for _, d := range dead {
		var problems []error
		for _, file := range d.files() {
			problems = append(problems, os.RemoveAll(file))
			s.logger.Info("removing what a killed backup has left", "file", file)
		}
		problems = append(problems, unlock(d.file, d.note, len(d.files()) == 0))
		if err := errors.Join(problems...); err != nil {
			s.logger.Warn("what a killed backup has left cannot be removed", "file", d.path, "error", err)
		}
	}
}
