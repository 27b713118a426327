package policy

// Severity grades a Finding.
type Severity int

const (
	Warning Severity = iota // legal, and probably not what was meant
	Error                   // the document would be refused
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Finding is one remark of Lint.
type Finding struct {
	Line     int    // from 1
	Path     string // "Statement[0].Condition.StringEquals", "" for the document itself
	Severity Severity
	Text     string
}

// Lint says what is wrong with a document, and what is legal but probably a mistake, in the order of the lines.
func Lint(kind Kind, text string) []Finding { return nil }
