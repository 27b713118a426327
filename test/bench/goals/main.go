// Command goals measures what docs/performance.md promises, each figure beside its rival in the same run, and prints one table. Run it by
// make bench, on a machine that does nothing else.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"
)

func main() {
	benchtime := flag.String("benchtime", "1s", "for each benchmark, such as 1s or 1000x")
	match := flag.String("match", "", "only groups of benchmarks whose pattern contains this")
	flag.Parse()
	if err := run(*benchtime, *match); err != nil {
		fmt.Fprintln(os.Stderr, "goals:", err)
		os.Exit(1)
	}
}

func run(benchtime, match string) (err error) {
	dir, err := os.MkdirTemp("", "goals-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := filepath.Join(dir, "bench")
	build := exec.Command("go", "test", "-c", "-o", binary, "./test/bench")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the benchmarks (in the root of the project): %w", err)
	}
	if load := busy(); load != "" {
		fmt.Fprintf(os.Stderr, "goals: the machine is not idle (%s): figures will be worse, and ratios may be off\n", load)
	}
	measured := results{}
	for i, g := range groups {
		if !strings.Contains(g.benchmarks, match) {
			continue
		}
		of := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(of, 0o700); err != nil {
			return err
		}
		if err := g.measure(binary, of, benchtime, measured); err != nil {
			return fmt.Errorf("%s: %w", g.benchmarks, err)
		}
	}
	return measured.print(os.Stdout)
}

// busy tells what the machine was doing in the last minute, or nothing if it was idle.
func busy() string {
	text, err := os.ReadFile("/proc/loadavg")
	var load float64
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	if err != nil || load < 0.5 {
		return ""
	}
	return fmt.Sprintf("load %.1f", load)
}

// results are the figures of a benchmark, by its name and their units.
type results map[string]map[string]float64

// measure runs the benchmarks of a group and notes their figures. What they print goes to standard error as it comes.
func (g group) measure(binary, dir, benchtime string, into results) error {
	args := []string{binary, "-test.run", "^$", "-test.bench", g.benchmarks, "-test.benchmem", "-test.benchtime", benchtime,
		"-test.timeout", "0"}
	if g.script != "" {
		args = append([]string{"unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
			"sh", filepath.Join("test", "tokens", g.script), dir}, args...)
	}
	var out bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, os.Stderr), os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	for r := benchfmt.NewReader(&out, g.benchmarks); r.Scan(); {
		line, ok := r.Result().(*benchfmt.Result)
		if !ok {
			continue
		}
		name := strings.TrimSuffix(line.Name.String(), fmt.Sprintf("-%d", runtime.GOMAXPROCS(0)))
		into[name] = map[string]float64{}
		for _, v := range line.Values {
			into[name][v.Unit] = v.Value
		}
	}
	return nil
}

// print prints the table of those goals that were measured.
func (m results) print(to io.Writer) error {
	fmt.Fprintf(to, "%s, %d processors\n\n", runtime.GOARCH, runtime.NumCPU())
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "goal\twhat\tmeasured\tunit\twanted\tmet")
	missed := 0
	for _, g := range goals {
		value, ok := m[g.benchmark][g.unit]
		if !ok {
			continue
		}
		wanted, met := fmt.Sprintf("<= %.2f", g.most), value <= g.most
		if g.least > 0 {
			wanted, met = fmt.Sprintf(">= %.2f", g.least), value >= g.least
		}
		says := "yes"
		if !met {
			says, missed = "no", missed+1
		}
		fmt.Fprintf(table, "%d\t%s\t%.2f\t%s\t%s\t%s\n", g.number, g.what, value, g.unit, wanted, says)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(to, "\n%d missed. What the units mean and how this is measured: docs/performance.md\n", missed)
	return nil
}
