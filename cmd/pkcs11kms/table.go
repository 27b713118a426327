package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	cellPadding  = 4
	defaultWidth = 80 // where standard output is no terminal
)

func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return defaultWidth
}

// section is one box of a table: a title, column headers, rows. A section inside another has a higher level and is
// drawn with as many more bars on both sides.
type section struct {
	title   string
	level   int
	headers []string
	rows    [][]string
}

// table is the aws CLI's table form: a stack of sections of one width.
type table struct{ sections []*section }

// writeTable draws the value under a title. Nothing is drawn of an empty one.
func writeTable(w io.Writer, title string, value any, width int) {
	var t table
	if !t.build(title, value, 0) {
		return
	}
	if t.width() > width {
		for _, s := range t.sections {
			s.stand()
		}
	}
	total := t.width()
	fmt.Fprintln(w, strings.Repeat("-", total))
	for _, s := range t.sections {
		s.draw(w, total-2*s.level)
	}
}

// add puts a row into the newest section; a value that came without a title opens one.
func (t *table) add(cells ...string) {
	if len(t.sections) == 0 {
		t.sections = append(t.sections, &section{})
	}
	s := t.sections[len(t.sections)-1]
	s.rows = append(s.rows, cells)
}

func (t *table) open(title string, level int, headers []string) {
	t.sections = append(t.sections, &section{title: title, level: level, headers: headers})
}

// build adds the sections of a value and tells whether there were any.
func (t *table) build(title string, value any, level int) bool {
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 {
			return false
		}
		t.open(title, level, nil)
		t.buildMap(v, level)
	case []any:
		if len(v) == 0 {
			return false
		}
		t.buildList(title, v, level)
	case nil:
		return false
	default:
		// The aws CLI draws the title of a lone scalar and not the scalar, which helps nobody.
		t.open(title, level, nil)
		t.add(plain(v))
	}
	return true
}

func (t *table) buildMap(m map[string]any, level int) {
	scalars, others := splitMembers(m)
	switch {
	case len(scalars) == 1:
		t.add(scalars[0], plain(m[scalars[0]]))
	case len(scalars) > 1:
		t.sections[len(t.sections)-1].headers = scalars
		t.add(cellsOf(m, scalars)...)
	}
	for _, name := range others {
		t.build(name, m[name], level+1)
	}
}

func (t *table) buildList(title string, list []any, level int) {
	if isMap(list[0]) {
		t.buildMaps(title, list, level)
		return
	}
	t.open(title, level, nil)
	for _, item := range list {
		inner, ok := item.([]any)
		switch {
		case !ok:
			t.add(plain(item))
		case !slices.ContainsFunc(inner, func(v any) bool { return !isScalar(v) }):
			var cells []string
			for _, cell := range inner {
				cells = append(cells, plain(cell))
			}
			t.add(cells...)
		default:
			t.build(title, inner, level+1)
		}
	}
}

// buildMaps draws a list of maps as rows of one section; members that are no scalars interrupt it with sections of
// their own.
func (t *table) buildMaps(title string, list []any, level int) {
	headers := scalarNames(list)
	nested := map[string]bool{}
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			_, others := splitMembers(m)
			for _, name := range others {
				nested[name] = true
			}
		}
	}
	t.open(title, level, headers)
	for i, item := range list {
		m, _ := item.(map[string]any)
		if i > 0 && len(nested) > 0 {
			t.open(title, level, headers)
		}
		t.add(cellsOf(m, headers)...)
		for _, name := range slices.Sorted(maps.Keys(nested)) {
			t.build(name, m[name], level+1)
		}
	}
}

func cellsOf(m map[string]any, names []string) (cells []string) {
	for _, name := range names {
		cell := ""
		if value, ok := m[name]; ok && isScalar(value) {
			cell = plain(value)
		}
		cells = append(cells, cell)
	}
	return cells
}

// stand turns a section of one row by a quarter, header beside value, for a terminal that is too narrow.
func (s *section) stand() {
	if len(s.rows) != 1 || len(s.headers) == 0 {
		return
	}
	var rows [][]string
	for i, header := range s.headers {
		rows = append(rows, []string{header, s.rows[0][i]})
	}
	s.headers, s.rows = nil, rows
}

func (t *table) width() int {
	width := 0
	for _, s := range t.sections {
		total := 2 // the border
		for _, w := range s.columnWidths() {
			total += w
		}
		width = max(width, utf8.RuneCountInString(s.title)+2+2*s.level, total+2*s.level)
	}
	return width
}

// columnWidths is what each column needs, padding included.
func (s *section) columnWidths() []int {
	var widths []int
	for _, row := range append([][]string{s.headers}, s.rows...) {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, cellPadding)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell)+cellPadding)
		}
	}
	return widths
}

// fit stretches the columns in proportion until they fill the width.
func fit(widths []int, width int) []int {
	sum := 0
	for _, w := range widths {
		sum += w
	}
	left := width
	fitted := make([]int, len(widths))
	for i, w := range widths {
		fitted[i] = int(math.RoundToEven(float64(width) / float64(sum) * float64(w)))
		left -= fitted[i]
	}
	for i := 0; left < 0; i = (i + 1) % len(fitted) { // rounded up too often: the first columns give
		fitted[i]--
		left++
	}
	for i := len(fitted) - 1; left > 0; i = (i + len(fitted) - 1) % len(fitted) { // the last ones take
		fitted[i]++
		left--
	}
	return fitted
}

func (s *section) draw(w io.Writer, width int) {
	bars := strings.Repeat("|", s.level)
	line := func(text string) { fmt.Fprintln(w, bars+text+bars) }
	if s.title != "" {
		line("|" + centred(s.title, width, width-2) + "|")
		if len(s.headers) == 0 && len(s.rows) == 0 {
			line("+" + strings.Repeat("-", width-2) + "+")
		}
	}
	needed := s.columnWidths()
	if len(needed) == 0 {
		return
	}
	widths := fit(needed, width)
	if len(s.headers) > 0 {
		line(ruler(widths))
		line(cells(s.headers, widths, centred))
	}
	if len(s.rows) == 0 {
		return
	}
	line(ruler(widths))
	for _, row := range s.rows {
		line(cells(row, widths, aligned))
	}
	line(ruler(widths))
}

func ruler(widths []int) string {
	dashes := func(_ string, _, room int) string { return strings.Repeat("-", room) }
	return strings.ReplaceAll(cells(make([]string, len(widths)), widths, dashes), "|", "+")
}

// cells lays out a row. The width of a cell counts its bars: two for the first, one for the others; room is without.
func cells(row []string, widths []int, lay func(text string, width, room int) string) string {
	var b strings.Builder
	b.WriteByte('|')
	for i, text := range row {
		room := widths[i] - 1
		if i == 0 {
			room--
		}
		b.WriteString(lay(text, widths[i], room) + "|")
	}
	return b.String()
}

// centred puts the text where the aws CLI has it, which rounds with the bars counted in.
func centred(text string, width, room int) string {
	length := utf8.RuneCountInString(text)
	left := max(width/2-length/2-1, 0)
	return strings.Repeat(" ", left) + text + strings.Repeat(" ", max(room-left-length, 0))
}

func aligned(text string, _, room int) string {
	length := utf8.RuneCountInString(text)
	left := 2
	if room < length+left {
		left = 0
	}
	return strings.Repeat(" ", left) + text + strings.Repeat(" ", max(room-left-length, 0))
}
