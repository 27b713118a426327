package faultp11

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process speaks to the instance of a Module in one process. It is safe for concurrent use.
type Process struct {
	tb  TB
	dir string
	pid int
}

// patience is how long an answer may take, and how long Await waits.
const patience = 30 * time.Second

// Do runs a command and returns the lines of its answer. Before the process has loaded the module, it is a command that every process
// begins with, as AtStart, and there is no answer.
func (p *Process) Do(command string) []string {
	p.tb.Helper()
	lines, err := p.try(command)
	if errors.Is(err, fs.ErrNotExist) {
		err = appendLine(filepath.Join(p.dir, "start"), command)
	}
	if err != nil {
		p.tb.Fatalf("%s: %v", command, err)
	}
	return lines
}

func (p *Process) try(command string) (lines []string, err error) {
	conn, err := p.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(conn, command); err != nil {
		return nil, err
	}
	for answer := bufio.NewScanner(conn); answer.Scan(); {
		switch line := answer.Text(); {
		case line == "ok":
			return lines, nil
		case strings.HasPrefix(line, "error: "):
			return nil, errors.New(line)
		default:
			lines = append(lines, line)
		}
	}
	return nil, errors.New("the answer of the module is cut off")
}

// dial connects to the socket of the process. Its queue is short, so that an attempt may have to be repeated.
func (p *Process) dial() (net.Conn, error) {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", filepath.Join(p.dir, strconv.Itoa(p.pid)))
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return conn, err
		}
	}
}

// quit ends the module's thread, if the process has loaded it.
func (p *Process) quit() {
	if conn, err := p.dial(); err == nil {
		_, _ = fmt.Fprintln(conn, "quit")
		_ = conn.Close()
	}
}

// Rule is a rule that is in force.
type Rule struct {
	process *Process
	id      string
}

// Rule adds a rule, such as "C_Sign,C_SignInit fail CKR_DEVICE_ERROR times=1".
func (p *Process) Rule(rule string) *Rule {
	p.tb.Helper()
	lines := p.Do("on " + rule)
	if len(lines) == 0 {
		return &Rule{process: p} // of a process that is yet to come
	}
	return &Rule{process: p, id: lines[0]}
}

// Remove ends the rule. Calls that it makes hang go on.
func (r *Rule) Remove() {
	r.process.tb.Helper()
	if r.id == "" {
		r.process.tb.Fatalf("the rule was made before the module was loaded: use Clear")
	}
	r.process.Do("remove " + r.id)
}

// Fail adds a rule by which the functions, with commas between them, answer with a CKR_ value. With the condition "after" they do what
// was asked before.
func (p *Process) Fail(functions string, rv uint, conditions ...string) *Rule {
	p.tb.Helper()
	return p.Rule(fmt.Sprintf("%s fail %#x %s", functions, rv, strings.Join(conditions, " ")))
}

// Clear takes all rules and losses back. Sessions that were lost stay so; handles stay reused.
func (p *Process) Clear() {
	p.tb.Helper()
	p.Do("clear")
}

// Counters tell of the calls of a function since the module was loaded, or since the command reset.
type Counters struct {
	Calls   int // in all
	Queries int // of these, those that asked for the length of the result only
	Faults  int // times that a rule or limit made a difference
	Lost    int // calls that were made while the device, its token or the session was lost
	Inside  int // calls that have not answered yet
	Hanging int // of these, those that a rule delays
}

// Counters returns the counters of the functions that were called.
func (p *Process) Counters() map[string]Counters {
	p.tb.Helper()
	all := map[string]Counters{}
	for _, line := range p.Do("counters") {
		var name string
		var n Counters
		if _, err := fmt.Sscanf(line, "%s calls=%d queries=%d faults=%d lost=%d inside=%d hanging=%d",
			&name, &n.Calls, &n.Queries, &n.Faults, &n.Lost, &n.Inside, &n.Hanging); err != nil {
			p.tb.Fatalf("counters %q: %v", line, err)
		}
		all[name] = n
	}
	return all
}

// Await waits until the counters of a function are as is says.
func (p *Process) Await(function string, is func(Counters) bool) {
	p.tb.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		n := p.Counters()[function]
		if is(n) {
			return
		}
		if time.Now().After(end) {
			p.tb.Fatalf("waiting for calls of %s: %+v", function, n)
		}
	}
}

// AwaitLoaded waits until the process has loaded the module.
func (p *Process) AwaitLoaded() {
	p.tb.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		_, err := os.Stat(filepath.Join(p.dir, strconv.Itoa(p.pid)))
		if err == nil {
			return
		}
		if time.Now().After(end) {
			p.tb.Fatalf("waiting for process %d to load the module: %v", p.pid, err)
		}
	}
}

// Open returns how many sessions the process has open, those that were lost not counted.
func (p *Process) Open() int {
	p.tb.Helper()
	n, err := strconv.Atoi(strings.Join(p.Do("open"), ""))
	if err != nil {
		p.tb.Fatalf("open: %v", err)
	}
	return n
}

// Violations tells what no host may do and this one did, such as a C_Finalize while another call was inside, or two
// calls by one session at once.
func (p *Process) Violations() []string {
	p.tb.Helper()
	return p.Do("violations")
}

// With returns p for another test, such as a subtest.
func (p *Process) With(tb TB) *Process { return &Process{tb: tb, dir: p.dir, pid: p.pid} }
