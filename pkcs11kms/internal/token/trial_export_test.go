package token

import "time"

// AgeGaps lets a time go by for what is known to be missing.
func (t *Token) AgeGaps(d time.Duration) {
	for kind, kept := range t.gaps.Range {
		older := kept.(keptGap)
		older.found = older.found.Add(-d)
		t.gaps.Store(kind, older)
	}
}
