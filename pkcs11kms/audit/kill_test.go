package audit

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const killedDir = "PKCS11KMS_AUDIT_KILLED"

// recordForEver records from 8 goroutines, and says each record that it has written.
func recordForEver(t *testing.T, dir string) {
	l, err := Open(dir, Options{RotateBytes: 50_000})
	require.NoError(t, err)
	var printing sync.Mutex
	for g := range 8 {
		go func() {
			for n := 0; ; n++ {
				var err error
				e := use(n)
				e.RequestID = fmt.Sprintf("%d-%d-%d", os.Getpid(), g, n)
				if n%20 == 0 {
					e.Kind, e.ReadOnly = Intent, false
					err = l.Intend(t.Context(), e)
					e.Kind, e.Intended = Call, true
				}
				if err == nil {
					err = l.Record(t.Context(), e)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				printing.Lock()
				fmt.Println(e.RequestID)
				printing.Unlock()
			}
		}()
	}
	select {}
}

// What was acknowledged before a process was killed is in the log, and the log is whole: what is half written is told and no fault.
func TestAKilledProcessLosesNothing(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		recordForEver(t, dir)
	}
	dir := filepath.Join(t.TempDir(), "audit")
	acknowledged := 0
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestAKilledProcessLosesNothing$")
		child.Env = append(os.Environ(), killedDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		var said []string
		for lines := bufio.NewScanner(out); lines.Scan(); said = append(said, lines.Text()) {
			if len(said) == 200+137*round {
				require.NoError(t, child.Process.Kill())
			}
		}
		require.Error(t, child.Wait(), "it was killed")
		recorded := map[string]bool{}
		for _, id := range requestIDs(t, dir) {
			recorded[id] = true
		}
		for _, id := range said[:len(said)-1] { // the last line may be half of one
			require.True(t, recorded[id], id)
		}
		acknowledged += len(said)
	}
	v := mustVerify(t, dir)
	require.Len(t, v.Heads, 1, "one after the other")
	require.GreaterOrEqual(t, v.Records, uint64(acknowledged))
}
