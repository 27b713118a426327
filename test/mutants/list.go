package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed faults/*.yaml
var lists embed.FS

// area is what one list is about.
type area struct {
	Name string `yaml:"-"` // of the list's file
	// Packages whose tests should notice, as go test takes them, the most likely first.
	Packages []string
	// Files that -sample draws from; patterns of path.Match from the root of the tree.
	Files []string
	// Tests are tried first, in every package: a pattern of go test -run. What survives them meets all tests.
	Tests  string
	Faults []fault
}

// fault is one change that a test should notice.
type fault struct {
	Name string // what goes wrong, in words
	File string // from the root of the tree
	From string // the text that is there, exactly once
	To   string // what is put in its place
	Why  string // what a user would suffer, where the name does not say it
	// Tests are tried first in place of the area's.
	Tests string
	// Survives explains why no test needs to notice; empty: one must.
	Survives string

	at int // where From begins, if it is drawn and not listed; -1 otherwise
}

func loadAreas() ([]area, error) {
	names, err := fs.Glob(lists, "faults/*.yaml") // sorted
	if err != nil {
		return nil, err
	}
	var areas []area
	for _, name := range names {
		text, err := lists.ReadFile(name)
		if err != nil {
			return nil, err
		}
		a := area{Name: strings.TrimSuffix(path.Base(name), ".yaml")}
		dec := yaml.NewDecoder(bytes.NewReader(text))
		dec.KnownFields(true)
		if err := dec.Decode(&a); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for i := range a.Faults {
			a.Faults[i].at = -1
		}
		areas = append(areas, a)
	}
	return areas, nil
}

// errStale says that the code is not any more what a list says.
var errStale = errors.New("the list is stale")

// find returns where the fault's text begins in the text of its file.
func (f fault) find(text string) (int, error) {
	if f.at >= 0 {
		return f.at, nil
	}
	if n := strings.Count(text, f.From); n != 1 || f.From == "" {
		return 0, fmt.Errorf("%w: %s has the text %d times instead of once: %q", errStale, f.File, n, f.From)
	}
	return strings.Index(text, f.From), nil
}

// apply returns the text of the fault's file with the fault in it.
func (f fault) apply(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, f.File))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStale, err)
	}
	at, err := f.find(string(text))
	if err != nil {
		return nil, err
	}
	return []byte(string(text[:at]) + f.To + string(text[at+len(f.From):])), nil
}
