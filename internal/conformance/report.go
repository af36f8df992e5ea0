package main

import (
	_ "embed"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed mqtt5.tsv
var mqtt5 string

//go:embed mqtt311.tsv
var mqtt311 string

//go:embed unobservable.tsv
var unobservable string

// standard is one version of MQTT.
type standard struct {
	name       string // as in unobservable.tsv
	statements string // its .tsv file
	directory  string // of its tests, seen from the root
}

var standards = []standard{
	{"5.0", mqtt5, "conformance/v5"},
	{"3.1.1", mqtt311, "conformance/v3"},
}

// statement is a numbered sentence of a standard.
type statement struct {
	id      string // MQTT-3.1.2-24
	level   string // Must, MustNot, May
	binds   string // Server, Client, Both
	summary string // in our words
	tests   []test
	reason  string // why there are no tests
}

// bindsServer reports whether the statement asks something of a Server.
func (s *statement) bindsServer() bool { return s.binds != "Client" }

// test is a test function.
type test struct {
	name string
	file string // seen from the root
}

// report is a standard with the tests of its statements.
type report struct {
	standard   standard
	statements []*statement
	unknown    []string // what tests and unobservable.tsv cite that isn't a statement, and the like
}

// collect reads the lists and the tests of the repository at root. A standard whose tests don't exist there is left out.
func collect(root string) ([]report, error) {
	var reports []report
	for _, s := range standards {
		directory := filepath.Join(root, filepath.FromSlash(s.directory))
		if _, err := os.Stat(directory); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		cited, err := citations(directory, s.directory)
		if err != nil {
			return nil, err
		}
		r, err := combine(s, cited, unobservable)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// combine puts the statements of a standard, the tests that cite them, and the reasons for having none together.
func combine(s standard, cited map[string][]test, unobservable string) (report, error) {
	r := report{standard: s}
	byID := map[string]*statement{}
	for _, f := range fields(s.statements) {
		if len(f) != 4 || byID[f[0]] != nil {
			return r, fmt.Errorf("MQTT %s: not a line of identifier, level, binds and summary, or there twice: %q", s.name, f)
		}
		byID[f[0]] = &statement{id: f[0], level: f[1], binds: f[2], summary: f[3]}
		r.statements = append(r.statements, byID[f[0]])
	}
	for id, tests := range cited {
		if byID[id] == nil {
			r.unknown = append(r.unknown, fmt.Sprintf("%s cites %s, which isn't a statement of MQTT %s", tests[0].name, id, s.name))
			continue
		}
		byID[id].tests = tests
	}
	for _, f := range fields(unobservable) {
		if len(f) != 3 {
			return r, fmt.Errorf("unobservable.tsv: not a line of standard, identifier and reason: %q", f)
		}
		if f[0] != s.name {
			continue
		}
		if st := byID[f[1]]; st == nil || len(st.tests) > 0 {
			r.unknown = append(r.unknown, fmt.Sprintf("unobservable.tsv: %s isn't a statement of MQTT %s, or has a test", f[1], s.name))
		} else {
			st.reason = f[2]
		}
	}
	slices.Sort(r.unknown)
	return r, nil
}

// fields splits a .tsv file into its lines' fields. Lines that begin with # are comments.
func fields(tsv string) (lines [][]string) {
	for line := range strings.Lines(tsv) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && line[0] != '#' {
			lines = append(lines, strings.Split(line, "\t"))
		}
	}
	return lines
}

// citation is how a comment names statements: [MQTT-3.1.2-24].
var citation = regexp.MustCompile(`\[(MQTT-[0-9.]+-[0-9]+)\]`)

// citations returns the tests of a directory by the statements that their doc comments cite, each in the order of the files.
func citations(directory, shown string) (map[string][]test, error) {
	files, err := filepath.Glob(filepath.Join(directory, "*_test.go"))
	if err != nil {
		return nil, err
	}
	cited := map[string][]test{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") || fn.Name.Name == "TestMain" {
				continue
			}
			ids, err := cites(fn)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			for _, id := range ids {
				cited[id] = append(cited[id], test{fn.Name.Name, shown + "/" + filepath.Base(file)})
			}
		}
	}
	return cited, nil
}

// cites returns the statements that a test's doc comment cites. The test has to be named after one of them.
func cites(fn *ast.FuncDecl) ([]string, error) {
	var ids []string
	namesake := false
	for _, m := range citation.FindAllStringSubmatch(fn.Doc.Text(), -1) {
		id := m[1]
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		prefix := "Test" + strings.NewReplacer("-", "_", ".", "_").Replace(id) + "_"
		namesake = namesake || strings.HasPrefix(fn.Name.Name, prefix)
	}
	if !namesake {
		return nil, fmt.Errorf("%s isn't named after one of the statements in its comment, as TestMQTT_3_1_2_24_…: %q", fn.Name.Name, ids)
	}
	return ids, nil
}

// check returns an error that names all statements which lack a test and a reason for that, and all citations that are wrong.
func check(reports []report) error {
	var errs []error
	for _, r := range reports {
		for _, s := range r.statements {
			if s.bindsServer() && len(s.tests) == 0 && s.reason == "" {
				errs = append(errs, fmt.Errorf("MQTT %s: no test for %s: %s", r.standard.name, s.id, s.summary))
			}
		}
		for _, u := range r.unknown {
			errs = append(errs, errors.New(u))
		}
	}
	return errors.Join(errs...)
}

// render writes the document.
func render(w io.Writer, reports []report) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("# Conformance")
	p("")
	p("Which test shows which normative statement of the MQTT standards (Appendix B of each). Written by `make conformance` from the")
	p("statements in `internal/conformance` and the comments of the tests; don't edit. The standard's sentences are put in our words here.")
	p("")
	p("| Standard | Statements | Bind the Server | With a test | Not observable |")
	p("|---|---|---|---|---|")
	for _, r := range reports {
		var server, tested, unobservable int
		for _, s := range r.statements {
			if !s.bindsServer() {
				continue
			}
			if server++; len(s.tests) > 0 {
				tested++
			} else if s.reason != "" {
				unobservable++
			}
		}
		p("| MQTT %s | %d | %d | %d | %d |", r.standard.name, len(r.statements), server, tested, unobservable)
	}
	for _, r := range reports {
		p("")
		p("## MQTT %s", r.standard.name)
		p("")
		p("| Statement | Level | Binds | What it says | Tests |")
		p("|---|---|---|---|---|")
		for _, s := range r.statements {
			level := strings.Replace(s.level, "Not", " not", 1)
			p("| %s | %s | %s | %s | %s |", s.id, strings.ToLower(level), s.binds, escape(s.summary), s.shown())
		}
	}
}

// shown is the last cell of a statement's line.
func (s *statement) shown() string {
	var links []string
	for _, t := range s.tests {
		links = append(links, fmt.Sprintf("[%s](../%s)", strings.TrimPrefix(t.name, "Test"), t.file))
	}
	switch {
	case len(links) > 0:
		return strings.Join(links, ", ")
	case s.reason != "":
		return "not observable: " + escape(s.reason)
	case s.bindsServer():
		return "**missing**"
	}
	return "–"
}

// escape keeps a cell within its table.
func escape(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
