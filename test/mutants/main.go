// Mutants puts small faults into the code, one at a time, and tells which of them no test notices. A fault that survives is
// a behaviour that somebody can break without a word.
//
// The faults stand in faults/AREA.yaml, each with the exact text that it replaces, so that a list that has gone stale is an
// error and no silence. With -sample it draws others from the syntax of the area's files instead. The tree is never written
// to: a fault reaches the compiler through go's -overlay.
//
//	go run ./test/mutants                      every fault of every area; exit code 1 below the target
//	go run ./test/mutants -area pool -v        one area, with what each fault met
//	go run ./test/mutants -area pool -sample 30 -seed 7
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// target is the least part of the faults that tests must notice; a survivor that is explained does not count.
const target = 0.95

// errBelow is the answer when the target is missed.
var errBelow = fmt.Errorf("the score is under the target of %.2f", target)

type options struct {
	dir, areas, match string
	sample            int
	seed              uint64
	verbose           bool
	buildOnly, quick  bool
	timeout, first    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.dir, "C", ".", "root of the tree that is tested")
	flag.StringVar(&o.areas, "area", "", "areas, separated by commas; default: all")
	flag.StringVar(&o.match, "match", "", "only faults whose name contains this")
	flag.IntVar(&o.sample, "sample", 0, "draw so many faults of each area from its syntax, in place of the list")
	flag.Uint64Var(&o.seed, "seed", 1, "of the drawing")
	flag.BoolVar(&o.verbose, "v", false, "tell what each fault met")
	flag.BoolVar(&o.quick, "quick", false, "run only the tests that a fault or its area names, where they do")
	flag.BoolVar(&o.buildOnly, "n", false, "run no tests: tell which faults do not compile")
	flag.DurationVar(&o.first, "first", 2*time.Minute, "for the tests that are most likely to notice")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "for all tests of a package")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	areas, err := loadAreas()
	if err != nil {
		return err
	}
	r, err := newRunner(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var all []result
	for _, a := range areas {
		if o.areas != "" && !slices.Contains(strings.Split(o.areas, ","), a.Name) {
			continue
		}
		results, err := r.area(ctx, a, o)
		all = append(all, results...)
		if err != nil {
			return errors.Join(err, report(os.Stdout, all))
		}
	}
	if o.buildOnly {
		return broken(all)
	}
	return report(os.Stdout, all)
}

// area tries the faults of one area.
func (r *runner) area(ctx context.Context, a area, o options) ([]result, error) {
	faults, limit := a.Faults, len(a.Faults)
	if o.sample > 0 {
		all, err := drawn(o.dir, a, o.seed)
		if err != nil {
			return nil, err
		}
		faults, limit = all[:min(len(all), 2*o.sample)], o.sample // some do not compile
	}
	faults = slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !strings.Contains(f.Name, o.match) })
	if err := r.begin(ctx, a, faults); err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, err)
	}
	var results []result
	for i, f := range faults {
		if len(results) == limit {
			break
		}
		began := time.Now()
		res, err := r.try(ctx, a, i+1, f)
		if o.sample > 0 && errors.Is(err, errDoesNotCompile) {
			continue // no fault that anybody could make
		}
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		res.err = err
		results = append(results, res)
		if o.verbose {
			fmt.Printf("%s, %s: %s (%.0f s)\n", a.Name, f.Name, res.text(), time.Since(began).Seconds())
		}
	}
	return results, nil
}
