package sqlite

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// writeLockByte is where in the "-shm" file SQLite locks to write: byte 120, WAL_WRITE_LOCK of its WAL-index format.
const writeLockByte = "120"

// lockHolders names the processes that hold SQLite's write lock on a "-shm" file, as far as the system tells: nothing where
// there is no /proc, or where the process is in another container. The file itself is not opened: closing it would drop our
// own locks.
func lockHolders(shm string) (holders []string) {
	info, err := os.Stat(shm)
	if err != nil {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(stat.Dev)), unix.Minor(uint64(stat.Dev)), stat.Ino)
	for range lockLooks {
		if holders = writersOf(file); len(holders) > 0 {
			break
		}
	}
	return holders
}

// lockLooks is how often the list of locks is read: while others take and leave theirs, a reading can miss one that is there all the time.
const lockLooks = 3

// writersOf names the processes that hold the write lock of a file.
func writersOf(file string) (holders []string) {
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		// "7: POSIX  ADVISORY  WRITE 4711 fd:01:1834 120 120"; who waits has a "->" before the POSIX.
		f := strings.Fields(line)
		if len(f) == 8 && f[1] == "POSIX" && f[3] == "WRITE" && f[5] == file && f[6] == writeLockByte {
			holders = append(holders, describeProcess(f[4]))
		}
	}
	return holders
}

// processStates are those of proc(5) in which a process does not go on by itself.
var processStates = map[byte]string{'T': "stopped", 't': "stopped by a debugger", 'D': "waiting for the disk", 'Z': "ended"}

// describeProcess names a process by its id and command, and says if it does not run. The arguments are left out: they may
// hold secrets.
func describeProcess(pid string) string {
	text := "process " + pid
	if pid == fmt.Sprint(os.Getpid()) {
		return text + " (this one)"
	}
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return text
	}
	// "4711 (command) S ...": the command can hold parentheses itself.
	begin, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if begin < 0 || end < begin || len(stat) < end+3 {
		return text
	}
	command := strconv.QuoteToASCII(string(stat[begin+1 : end])) // whoever started it has chosen the name
	if state := processStates[stat[end+2]]; state != "" {
		return fmt.Sprintf("%s (%s, %s)", text, command, state)
	}
	return fmt.Sprintf("%s (%s)", text, command)
}
