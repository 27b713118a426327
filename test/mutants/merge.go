package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Building a test program takes longer than most tests. So faults inside functions go into one program: each is a copy of
// its function with the fault in it, and what has the function's name calls the copy whose number a file holds. All processes
// of a test read that file when they start, those that a test starts with an environment of its own too.

// merged is one program with many faults.
type merged struct {
	replace map[string]string // the files of the overlay: path in the tree -> text
	copies  []copied
}

// copied says where a fault stands in a file of the overlay.
type copied struct {
	number      int
	file        string // from the root of the tree
	first, last int    // lines
}

// declaration is a function and the faults in it.
type declaration struct {
	f       *ast.FuncDecl
	numbers []int
	faults  []fault
}

// merge puts the faults into copies of their functions. The number of a fault is its place in the list, counted from 1. It
// returns which of them are in no function, or in no Go file, and must be built alone.
func merge(root, active string, faults []fault) (*merged, map[int]bool, error) {
	m := &merged{replace: map[string]string{}}
	alone := map[int]bool{}
	byFile := map[string][]int{}
	var names []string
	for i, f := range faults {
		if byFile[f.File] == nil {
			names = append(names, f.File)
		}
		byFile[f.File] = append(byFile[f.File], i+1)
	}
	for _, name := range names {
		if err := m.addFile(root, active, name, faults, byFile[name], alone); err != nil {
			return nil, nil, err
		}
	}
	return m, alone, nil
}

func (m *merged) addFile(root, active, name string, faults []fault, numbers []int, alone map[int]bool) error {
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if path.Ext(name) != ".go" { // what a package embeds
		for _, number := range numbers {
			alone[number] = true
		}
		return nil
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	s := &source{name: name, text: string(text), file: set.File(parsed.Pos())}
	var found []*declaration
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if ok && f.Body != nil && f.Name.Name != "init" && f.Name.Name != "main" && f.Name.Name != "_" {
			found = append(found, &declaration{f: f})
		}
	}
	for _, number := range numbers {
		f := faults[number-1]
		if f.at, err = f.find(s.text); err != nil {
			return err
		}
		i := slices.IndexFunc(found, func(d *declaration) bool {
			return s.file.Offset(d.f.Body.Lbrace) < f.at && f.at+len(f.From) <= s.file.Offset(d.f.Body.End())
		})
		if i < 0 {
			alone[number] = true
			continue
		}
		found[i].numbers, found[i].faults = append(found[i].numbers, number), append(found[i].faults, f)
	}
	m.write(s, found)
	m.replace[path.Join(path.Dir(name), "zz_mutant.go")] = fmt.Sprintf(reader, parsed.Name.Name, active)
	return nil
}

// reader is the file of each package with faults that knows which one counts.
const reader = `package %s

import (
	"os"
	"strconv"
)

var mutant__ = func() int {
	text, _ := os.ReadFile(%q)
	n, _ := strconv.Atoi(string(text))
	return n
}()
`

// write puts the file together again.
func (m *merged) write(s *source, found []*declaration) {
	var b strings.Builder
	done := 0
	for _, d := range found {
		if len(d.faults) == 0 {
			continue
		}
		b.WriteString(s.text[done:s.file.Offset(d.f.Pos())])
		done = s.file.Offset(d.f.End())
		b.WriteString(s.dispatcher(d))
		b.WriteString("\n\n" + s.copyOf(d.f, fault{at: done}, 0))
		for i, f := range d.faults {
			b.WriteString("\n\n")
			first := 1 + strings.Count(b.String(), "\n")
			b.WriteString(s.copyOf(d.f, f, d.numbers[i]))
			m.copies = append(m.copies, copied{d.numbers[i], s.name, first, 1 + strings.Count(b.String(), "\n")})
		}
	}
	b.WriteString(s.text[done:])
	m.replace[s.name] = b.String()
}

func copyName(f *ast.FuncDecl, number int) string { return f.Name.Name + "__" + strconv.Itoa(number) }

// copyOf is the function under another name with the fault in it.
func (s *source) copyOf(f *ast.FuncDecl, in fault, number int) string {
	end := s.file.Offset(f.End())
	text := s.between(f.Pos(), f.Name.Pos()) + copyName(f, number) + s.text[s.file.Offset(f.Name.End()):min(in.at, end)]
	if in.at < end {
		text += in.To + s.text[in.at+len(in.From):end]
	}
	return text
}

// dispatcher is what has the function's name.
func (s *source) dispatcher(d *declaration) string {
	f := d.f
	call := "%s"
	header := "func "
	if f.Recv != nil {
		header += "(recv__ " + s.between(f.Recv.List[0].Type.Pos(), f.Recv.List[0].Type.End()) + ") "
		call = "recv__." + call
	}
	header += f.Name.Name
	if list := f.Type.TypeParams; list != nil {
		header += s.between(list.Pos(), list.End())
		var names []string
		for _, field := range list.List {
			for _, name := range field.Names {
				names = append(names, name.Name)
			}
		}
		call += "[" + strings.Join(names, ", ") + "]"
	}
	parameters, arguments := s.parameters(f)
	header += "(" + parameters + ") "
	call += "(" + arguments + ")"
	end := ""
	if list := f.Type.Results; list != nil {
		header += s.between(list.Pos(), list.End()) + " "
		call = "return " + call
	} else {
		end = "\n\t\treturn"
	}
	var b strings.Builder
	b.WriteString(header + "{\n\tswitch mutant__ {\n")
	for _, number := range d.numbers {
		fmt.Fprintf(&b, "\tcase %d:\n\t\t"+call+end+"\n", number, copyName(f, number))
	}
	fmt.Fprintf(&b, "\t}\n\t"+call+"\n}", copyName(f, 0))
	return b.String()
}

// parameters names every parameter anew, since some have no name.
func (s *source) parameters(f *ast.FuncDecl) (declared, passed string) {
	var parameters, arguments []string
	for _, field := range f.Type.Params.List {
		for range max(1, len(field.Names)) {
			name := fmt.Sprintf("p%d__", len(parameters))
			parameters = append(parameters, name+" "+s.between(field.Type.Pos(), field.Type.End()))
			if _, variadic := field.Type.(*ast.Ellipsis); variadic {
				name += "..."
			}
			arguments = append(arguments, name)
		}
	}
	return strings.Join(parameters, ", "), strings.Join(arguments, ", ")
}

var compileError = regexp.MustCompile(`(?m)^(?:\S*: )?(?:\./)?(\S+\.go):(\d+):\d+: .*$`)

// blamed returns the numbers of the faults in which the compiler found errors, with what it said.
func (m *merged) blamed(output string) map[int]string {
	found := map[int]string{}
	for _, e := range compileError.FindAllStringSubmatch(output, -1) {
		line, _ := strconv.Atoi(e[2])
		for _, c := range m.copies {
			if path.Base(e[1]) == overlayName(c.file) && c.first <= line && line <= c.last {
				found[c.number] = e[0]
			}
		}
	}
	return found
}
