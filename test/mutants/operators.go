package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// drawn returns faults made from the syntax of an area's files, in an order that the seed decides.
func drawn(root string, a area, seed uint64) ([]fault, error) {
	var all []fault
	for _, pattern := range a.Files {
		names, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			found, err := faultsOf(root, name)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
	}
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all, nil
}

// opposites are the operators that are put in the place of others.
var opposites = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL, token.LAND: token.LOR, token.LOR: token.LAND,
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.ADD: token.SUB, token.SUB: token.ADD, token.AND: token.OR, token.OR: token.AND,
}

// source is a file that faults are drawn from.
type source struct {
	name   string
	text   string
	file   *token.File
	faults []fault
}

func faultsOf(root, name string) ([]fault, error) {
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, name, text, 0)
	if err != nil {
		return nil, err
	}
	s := &source{name: name, text: string(text), file: set.File(parsed.Pos())}
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Body != nil {
			ast.Inspect(f.Body, s.visit)
		}
	}
	return s.faults, nil
}

func (s *source) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IfStmt:
		s.replace("condition negated", n.Cond.Pos(), n.Cond.End(), "!("+s.between(n.Cond.Pos(), n.Cond.End())+")")
	case *ast.BinaryExpr:
		if other, ok := opposites[n.Op]; ok {
			s.replace("operator", n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), other.String())
		}
	case *ast.IncDecStmt, *ast.ExprStmt, *ast.DeferStmt, *ast.SendStmt:
		s.replace("statement left out", n.Pos(), n.End(), "")
	case *ast.AssignStmt:
		if n.Tok == token.ASSIGN {
			s.replace("assignment left out", n.Pos(), n.End(), "_ = 0")
		}
	case *ast.ReturnStmt:
		s.returned(n)
	}
	return true
}

// returned has a function keep an error for itself, or answer the other truth.
func (s *source) returned(n *ast.ReturnStmt) {
	if len(n.Results) == 0 {
		return
	}
	last := n.Results[len(n.Results)-1]
	switch text := s.between(last.Pos(), last.End()); text {
	case "true":
		s.replace("answer", last.Pos(), last.End(), "false")
	case "false":
		s.replace("answer", last.Pos(), last.End(), "true")
	case "err":
		s.replace("error dropped", last.Pos(), last.End(), "nil")
	}
}

func (s *source) between(from, to token.Pos) string {
	return s.text[s.file.Offset(from):s.file.Offset(to)]
}

func (s *source) replace(kind string, from, to token.Pos, by string) {
	s.faults = append(s.faults, fault{
		Name: fmt.Sprintf("%s at %s:%d", kind, path.Base(s.name), s.file.Line(from)),
		File: s.name, From: s.between(from, to), To: by, at: s.file.Offset(from),
	})
}
