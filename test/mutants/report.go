package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// score counts the faults of one area.
type score struct{ killed, explained, survived int }

func (s score) ratio() float64 {
	if s.killed+s.survived == 0 {
		return 1
	}
	return float64(s.killed) / float64(s.killed+s.survived)
}

func (s *score) add(r result) {
	switch {
	case r.killer != "":
		s.killed++
	case r.fault.Survives != "":
		s.explained++
	default:
		s.survived++
	}
}

func (r result) text() string {
	switch {
	case r.err != nil:
		return r.err.Error()
	case r.killer != "":
		return "noticed by " + r.killer
	case r.fault.Survives != "":
		return "survives: " + r.fault.Survives
	}
	return "SURVIVED"
}

// broken tells what kept faults from being tried.
func broken(all []result) error {
	var problems []error
	for _, r := range all {
		if r.err != nil {
			problems = append(problems, fmt.Errorf("%s, %s: %w", r.area, r.fault.Name, r.err))
		}
	}
	return errors.Join(problems...)
}

// report prints the score by area and the survivors. It returns errBelow, and what kept faults from being tried.
func report(w io.Writer, all []result) error {
	var names []string
	areas := map[string]*score{}
	var total score
	for _, r := range all {
		if r.err != nil {
			continue
		}
		if areas[r.area] == nil {
			areas[r.area] = &score{}
			names = append(names, r.area)
		}
		areas[r.area].add(r)
		total.add(r)
	}
	fmt.Fprintf(w, "\n%-16s %7s %9s %10s %9s %6s\n", "area", "faults", "noticed", "explained", "survived", "score")
	for _, name := range names {
		line(w, name, *areas[name])
	}
	line(w, "total", total)
	fmt.Fprintln(w, "\nSurvivors:")
	for _, r := range all {
		if r.killer != "" || r.err != nil {
			continue
		}
		fmt.Fprintf(w, "- %s, %s (%s)\n", r.area, r.fault.Name, r.fault.File)
		fmt.Fprintf(w, "    %s\n    -> %s\n", flat(r.fault.From), flat(r.fault.To))
		if r.fault.Survives != "" {
			fmt.Fprintf(w, "    explained: %s\n", r.fault.Survives)
		}
	}
	err := broken(all)
	if total.ratio() < target {
		err = errors.Join(err, errBelow)
	}
	return err
}

func line(w io.Writer, name string, s score) {
	fmt.Fprintf(w, "%-16s %7d %9d %10d %9d %6.2f\n", name, s.killed+s.explained+s.survived, s.killed, s.explained, s.survived, s.ratio())
}

// flat puts a text on one line.
func flat(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
