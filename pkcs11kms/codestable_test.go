package pkcs11kms

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The table of return values says what a caller is answered when a C_ function on the way of an operation answers with one, once or
// always, and what it takes afterwards until all is well. It is kept in testdata/codes.txt:
//
//	go test ./pkcs11kms -run TestReturnValues                      one value of each row, as in make test
//	go test ./pkcs11kms -run TestReturnValues -codes=all           all of them, as in make soak
//	go test ./pkcs11kms -run TestReturnValues -codes=update        all of them, and the file is written anew
var codesFlag = flag.String("codes", "", `of TestReturnValues: one value of each row, "all" of them, or "update" the table`)

const codesFile = "testdata/codes.txt"

const codesHead = `# What a caller is answered when a C_ function on the way of an operation answers with a return value, and what it takes
# afterwards until the operation succeeds: the next call, or one a moment later, when a lost token was brought back ("at once"), or a
# restart of the program. "once, having worked": the answer of a call that has done its work is lost.
# Made by: go test ./pkcs11kms -run TestReturnValues -codes=update
`

// codeRow is a row of the table: what return values of a function have in common.
type codeRow struct{ operation, function, outcome string }

// codeTable has the return values of each row, in the order of PKCS #11.
type codeTable map[codeRow][]string

func TestReturnValues(t *testing.T) {
	want := codeTable{}
	if *codesFlag != "update" {
		want = readCodeTable(t)
	}
	tables := make(chan codeTable, len(codeOperations))
	t.Run("operation", func(t *testing.T) { // ends when all have ended
		for lane, operations := range codeLanes() {
			t.Run(lane, func(t *testing.T) {
				t.Parallel()
				for _, operation := range operations {
					t.Run(operation, func(t *testing.T) { tables <- newCodeFixture(t).table(operation, want) })
				}
			})
		}
	})
	close(tables)
	got := codeTable{}
	for table := range tables {
		maps.Copy(got, table)
	}
	if t.Failed() {
		return
	}
	switch *codesFlag {
	case "update":
		require.NoError(t, os.WriteFile(codesFile, []byte(got.String()), 0o600))
	case "all":
		assert.Equal(t, want.String(), got.String())
	default:
		requireRowsOf(t, want, got)
	}
}

// codeLanes are the operations that may run beside others, by their first word. Those that make keys take turns at the lock of SoftHSM's
// configuration, which is one for the process, and hold it while they wait for a lost token.
func codeLanes() map[string][]string {
	lanes := map[string][]string{}
	for _, operation := range slices.Sorted(maps.Keys(codeOperations)) {
		lane, _, _ := strings.Cut(operation, " ")
		lanes[lane] = append(lanes[lane], operation)
	}
	return lanes
}

// requireRowsOf asserts that the values that were tried are in the rows of the table where they were found.
func requireRowsOf(t *testing.T, want, got codeTable) {
	t.Helper()
	for row, codes := range got {
		for _, code := range codes {
			assert.Contains(t, want[row], code, "the table has not in this row: %+v", row)
		}
	}
}

// table plays the cases of an operation: those of all return values, or of the first of each row of a table.
func (f *codeFixture) table(operation string, rows codeTable) codeTable {
	got := codeTable{}
	for _, function := range slices.Sorted(maps.Keys(f.functions(operation))) {
		for _, code := range f.codes {
			if *codesFlag == "" && !rows.first(operation, function, code) {
				continue
			}
			row := codeRow{operation, function, f.outcome(operation, function, code)}
			got[row] = append(got[row], code)
		}
	}
	return got
}

// first tells whether the code is the first of a row.
func (table codeTable) first(operation, function, code string) bool {
	for row, codes := range table {
		if row.operation == operation && row.function == function && codes[0] == code {
			return true
		}
	}
	return false
}

// outcome plays the cases of one return value.
func (f *codeFixture) outcome(operation, function, code string) string {
	modes := []string{"once", "always"}
	if strings.HasPrefix(function, "C_GenerateKey") && !refusal(code) {
		modes = []string{"once", "once, having worked", "always"}
	}
	var parts []string
	for _, mode := range modes {
		answer, recovery := f.play(codeCase{operation, function, code, mode})
		parts = append(parts, fmt.Sprintf("%s: %s, then %s", mode, answer, recovery))
	}
	return strings.Join(parts, "; ")
}

// refusal tells whether a module says by the value that it has not made what it was asked for, since it does not make such a thing. No
// module says so of what it has made.
func refusal(code string) bool {
	for _, prefix := range []string{"CKR_ATTRIBUTE_", "CKR_TEMPLATE_", "CKR_MECHANISM_", "CKR_DOMAIN_PARAMS_", "CKR_CURVE_",
		"CKR_FUNCTION_NOT_SUPPORTED", "CKR_KEY_SIZE_RANGE", "CKR_KEY_TYPE_INCONSISTENT", "CKR_KEY_FUNCTION_NOT_PERMITTED"} {
		if strings.HasPrefix(code, prefix) {
			return true
		}
	}
	return false
}

// String is the text of the file.
func (table codeTable) String() string {
	rows := slices.SortedFunc(maps.Keys(table), func(a, b codeRow) int {
		return strings.Compare(a.operation+a.function+a.outcome, b.operation+b.function+b.outcome)
	})
	var text strings.Builder
	text.WriteString(codesHead)
	for _, row := range rows {
		fmt.Fprintf(&text, "\n%s, %s\n    %s\n", row.operation, row.function, row.outcome)
		line := "       "
		for _, code := range table[row] {
			if len(line)+len(code) >= 138 {
				text.WriteString(line + "\n")
				line = "       "
			}
			line += " " + code
		}
		text.WriteString(line + "\n")
	}
	return text.String()
}

func readCodeTable(t *testing.T) codeTable {
	t.Helper()
	f, err := os.Open(codesFile)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	table := codeTable{}
	var row codeRow
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "        "):
			table[row] = append(table[row], strings.Fields(line)...)
		case strings.HasPrefix(line, "    "):
			row.outcome = strings.TrimSpace(line)
		default:
			operation, function, ok := strings.Cut(line, ", ")
			require.True(t, ok, line)
			row = codeRow{operation: operation, function: function}
		}
	}
	require.NotEmpty(t, table)
	return table
}
