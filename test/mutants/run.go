package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// runner builds and runs test programs with faults in them. It is used by one goroutine.
type runner struct {
	root    string // of the tree
	work    string // a directory of its own
	active  string // the file with the number of the fault that counts
	timeout time.Duration
	first   time.Duration

	buildOnly bool // no test runs
	quick     bool // what the named tests do not notice meets no others

	broken map[int]error   // faults of the area that do not compile, by number
	alone  map[int]bool    // those that are built alone
	common program         // of all the others
	steady map[string]bool // package and test that pass without a fault
}

// program is an overlay and the test binaries that were built with it, by package.
type program struct {
	dir, overlay string
	binaries     map[string]string
}

func newRunner(o options) (*runner, error) {
	root, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return nil, err
	}
	return &runner{root: root, work: work, active: filepath.Join(work, "active"), timeout: o.timeout, first: o.first,
		buildOnly: o.buildOnly, quick: o.quick}, nil
}

func (r *runner) close() error { return os.RemoveAll(r.work) }

// result is what became of a fault.
type result struct {
	area   string
	fault  fault
	killer string // the test that noticed, with its package; empty: none did
	err    error  // why it could not be tried
}

// errDoesNotCompile says that a fault is no fault: the compiler notices.
var errDoesNotCompile = errors.New("the fault does not compile")

// begin builds the program that most of the faults share, without those that do not compile.
func (r *runner) begin(ctx context.Context, a area, faults []fault) error {
	r.broken, r.steady = map[int]error{}, map[string]bool{}
	for {
		var good []fault
		for i, f := range faults {
			if r.broken[i+1] != nil {
				f.From, f.To, f.at = "", "", 0 // keeps its number, and is in no function
			}
			good = append(good, f)
		}
		m, alone, err := merge(r.root, r.active, good)
		if err != nil {
			return err
		}
		r.alone = alone
		if r.common, err = r.program("common", m.replace); err != nil {
			return err
		}
		if err = r.setActive(0); err != nil {
			return err
		}
		for _, pkg := range a.Packages {
			if err = r.build(ctx, &r.common, pkg); err != nil {
				break
			}
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		blamed := m.blamed(err.Error())
		if len(blamed) == 0 {
			return err
		}
		for number, text := range blamed {
			r.broken[number] = fmt.Errorf("%w: %s", errDoesNotCompile, text)
		}
	}
}

func (r *runner) setActive(number int) error {
	return os.WriteFile(r.active, []byte(strconv.Itoa(number)), 0o600)
}

// program writes the files of an overlay, and what tells go of them.
func (r *runner) program(name string, replace map[string]string) (program, error) {
	p := program{dir: filepath.Join(r.work, name), binaries: map[string]string{}}
	p.overlay = filepath.Join(p.dir, "overlay.json")
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return p, err
	}
	paths := map[string]string{}
	for file, text := range replace {
		path := filepath.Join(p.dir, overlayName(file))
		paths[filepath.Join(r.root, file)] = path
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return p, err
		}
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": paths})
	if err != nil {
		return p, err
	}
	return p, os.WriteFile(p.overlay, list, 0o600)
}

// overlayName is the name of a file of the tree among those of an overlay.
func overlayName(file string) string { return strings.ReplaceAll(file, "/", "-") }

// build makes the test binary of a package, unless it is there.
func (r *runner) build(ctx context.Context, p *program, pkg string) error {
	if p.binaries[pkg] != "" {
		return nil
	}
	binary := filepath.Join(p.dir, strings.ReplaceAll(strings.Trim(pkg, "./"), "/", "-")+".test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", binary, pkg)
	cmd.Dir = r.root
	cmd.Env = p.environment()
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: %s\n%s", errDoesNotCompile, pkg, bytes.TrimSpace(out))
	}
	p.binaries[pkg] = binary
	return nil
}

// environment lets tests that build the program themselves build it with the faults as well.
func (p *program) environment() []string {
	return append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+p.overlay))
}

// try puts a fault in and runs the tests that are to notice: those named first, then all of the packages.
func (r *runner) try(ctx context.Context, a area, number int, f fault) (result, error) {
	res := result{area: a.Name, fault: f}
	if err := r.broken[number]; err != nil {
		return res, err
	}
	p := &r.common
	if r.alone[number] {
		text, err := f.apply(r.root)
		if err != nil {
			return res, err
		}
		own, err := r.program("alone", map[string]string{f.File: string(text)})
		if err != nil {
			return res, err
		}
		p = &own
	}
	first := a.Tests
	if f.Tests != "" {
		first = f.Tests
	}
	stages := []stage{{first, r.first}, {".", r.timeout}}
	if r.quick && first != "" {
		stages = stages[:1]
	}
	for _, stage := range stages {
		for _, pkg := range a.Packages {
			if stage.pattern == "" {
				continue
			}
			if err := r.build(ctx, p, pkg); err != nil {
				return res, err
			}
			if r.buildOnly {
				continue
			}
			killer, err := r.noticed(ctx, p, pkg, number, stage)
			if err != nil {
				return res, err
			}
			if killer != "" {
				res.killer = pkg + " " + killer
				return res, nil
			}
		}
	}
	return res, nil
}

// stage is a choice of tests and the time that they may take.
type stage struct {
	pattern string
	timeout time.Duration
}

// noticed runs tests under a fault and returns one that fails. That test must pass without the fault, and fail once more
// with it: a test that fails for another reason has noticed nothing.
func (r *runner) noticed(ctx context.Context, p *program, pkg string, number int, s stage) (string, error) {
	out, err := r.run(ctx, p, pkg, number, s)
	if err != nil || out.passed {
		return "", err
	}
	alone := s
	if out.failed != "" && !strings.Contains(s.pattern, "/") { // one that names parts of tests is narrow enough
		alone.pattern = "^" + regexp.QuoteMeta(out.failed) + "$"
	}
	if err := r.passesSound(ctx, pkg, alone); err != nil {
		return "", err
	}
	for range 3 {
		again := out
		if !out.hung {
			if again, err = r.run(ctx, p, pkg, number, alone); err != nil {
				return "", err
			}
		}
		if !again.passed {
			return alone.pattern, nil
		}
	}
	return "", nil
}

// passesSound makes sure that tests pass without a fault.
func (r *runner) passesSound(ctx context.Context, pkg string, s stage) error {
	if r.steady[pkg+" "+s.pattern] {
		return nil
	}
	for range 3 {
		out, err := r.run(ctx, &r.common, pkg, 0, s)
		if err != nil {
			return err
		}
		if out.passed {
			r.steady[pkg+" "+s.pattern] = true
			return nil
		}
	}
	return fmt.Errorf("%s %s fails without any fault", pkg, s.pattern)
}

var (
	failure = regexp.MustCompile(`(?m)^--- FAIL: ([^\s/]+)`)
	running = regexp.MustCompile(`(?m)^=== (?:RUN|CONT)\s+([^\s/]+)`)
	hanging = []byte("panic: test timed out")
)

// outcome is how tests ended. failed is the first that did not pass, if that can be told.
type outcome struct {
	passed, hung bool
	failed       string
}

// run runs tests of a package until one fails.
func (r *runner) run(ctx context.Context, p *program, pkg string, number int, s stage) (outcome, error) {
	if err := r.setActive(number); err != nil {
		return outcome{}, err
	}
	// The binary ends itself after the time-out; this is for one that cannot any more.
	limited, cancel := context.WithTimeout(ctx, s.timeout+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(limited, p.binaries[pkg], "-test.v", "-test.failfast",
		"-test.run="+s.pattern, "-test.timeout="+s.timeout.String())
	cmd.Dir = filepath.Join(r.root, pkg)
	cmd.Env = p.environment()
	cmd.WaitDelay = 10 * time.Second // children may hold the pipe
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return outcome{}, ctx.Err()
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return outcome{passed: true}, nil
	}
	o := outcome{hung: limited.Err() != nil || bytes.Contains(out, hanging)}
	if m := failure.FindSubmatch(out); m != nil {
		o.failed = string(m[1])
	} else if all := running.FindAllSubmatch(out, -1); len(all) > 0 {
		o.failed = string(all[len(all)-1][1]) // it died in this one
	}
	return o, nil
}
