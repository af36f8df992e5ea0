package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may be. Far above what anybody writes, and far below what would cost
// a running broker that reads its file again.
const (
	fileBytesMax = 1 << 20
	depthMax     = 32
)

// readFile reads a configuration file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	switch {
	case err != nil:
		return nil, plain(err)
	case len(text) > fileBytesMax:
		return nil, fmt.Errorf("is larger than %s", formatSize(fileBytesMax))
	}
	return text, nil
}

// plain leaves out the name of the file, which its problem has.
func plain(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// reader puts the text of a file into a configuration.
type reader struct {
	config *Config
	name   string // of the file
}

// readYAML puts a YAML text into c. What is wrong with it becomes problems of c.
func (c *Config) readYAML(name string, text []byte) {
	r := reader{c, name}
	tokens := lexer.Tokenize(string(text))
	if tk := tooDeep(tokens); tk != nil {
		r.problem(line(tk), "", fmt.Sprintf("is nested too deeply: allowed: %d levels", depthMax))
		return
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			r.problem(line(syntax.GetToken()), "", "isn't YAML: "+syntax.GetMessage())
		} else {
			r.problem(0, "", "isn't YAML: "+strings.ReplaceAll(err.Error(), "\n", " "))
		}
		return
	}
	var body ast.Node
	for _, document := range f.Docs {
		switch {
		case document.Body == nil:
		case body != nil:
			r.problem(lineOf(document.Body), "", "a second document: allowed: one")
			return
		default:
			body = document.Body
		}
	}
	if body != nil {
		r.section(body, c.nodes(), "")
	}
}

// tooDeep returns the token that nests too deeply on its line, if one does: the
// parser calls itself for each. Deep indentation costs a file more than it costs
// the parser.
func tooDeep(tokens token.Tokens) *token.Token {
	brackets, dashes, last := 0, 0, 0
	for _, tk := range tokens {
		if at := line(tk); at != last {
			dashes, last = 0, at
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			dashes++
		}
		if brackets > depthMax || dashes > depthMax {
			return tk
		}
	}
	return nil
}

func line(tk *token.Token) int {
	if tk == nil || tk.Position == nil {
		return 0
	}
	return tk.Position.Line
}

// lineOf returns the line on which a node begins.
func lineOf(n ast.Node) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		n = m.Values[0].Key
	}
	return line(n.GetToken())
}

func (r *reader) problem(line int, key, text string) {
	r.config.problems = append(r.config.problems, Problem{Source{r.name, line}, key, text, key})
}

// section reads a mapping.
func (r *reader) section(n ast.Node, nodes []*node, path string) {
	entries, ok := entriesOf(n)
	if !ok {
		r.problem(lineOf(n), path, fmt.Sprintf("is %s: allowed: a mapping with keys%s", sort(n), such("", nodes)))
		return
	}
	seen := map[string]int{}
	for _, entry := range entries {
		at := line(entry.Key.GetToken())
		name, ok := keyName(entry.Key)
		if !ok {
			r.problem(at, path, fmt.Sprintf("a key that is %s: allowed: plain keys", sort(entry.Key)))
			continue
		}
		if first, twice := seen[name]; twice {
			r.problem(at, join(path, name), fmt.Sprintf("was there before, on line %d", first))
			continue
		}
		seen[name] = at
		child := byName(nodes, name)
		if child == nil {
			r.problem(at, path, r.unknown(name, nodes))
			continue
		}
		r.value(entry.Value, child, join(path, name), at)
	}
}

// unknown says that there is no such key, and which one may have been meant.
func (r *reader) unknown(name string, nodes []*node) string {
	hint := suggest(name, names(nodes))
	if hint == "" {
		walkTemplate(r.config.nodes(), "", func(path string, n *node) {
			if hint == "" && n.name == name {
				hint = fmt.Sprintf("; did you mean %s?", path)
			}
		})
	}
	return fmt.Sprintf("unknown key %s%s: allowed: %s", shown(name), hint, allowedNames(nodes))
}

func allowedNames(nodes []*node) string {
	if len(nodes) == 0 {
		return "none"
	}
	return strings.Join(names(nodes), ", ")
}

// value reads what a key has.
func (r *reader) value(v ast.Node, n *node, path string, at int) {
	r.config.sources[path] = Source{r.name, at}
	switch {
	case n.section != nil:
		if _, empty := v.(*ast.NullNode); empty && !n.section.optional {
			return // All that was in it has been commented out.
		}
		if _, ok := entriesOf(v); !ok {
			r.problem(at, path, fmt.Sprintf("is %s: allowed: a mapping with keys%s", sort(v), such("", n.section.template())))
			return
		}
		r.section(v, n.section.open(), path)
	case n.list != nil:
		sequence, ok := v.(*ast.SequenceNode)
		if !ok {
			r.problem(at, path, fmt.Sprintf("is %s: allowed: a list", sort(v)))
			return
		}
		n.list.resize(0)
		n.list.resize(len(sequence.Values))
		for i, e := range sequence.Values {
			p := element(path, i)
			r.config.sources[p] = Source{r.name, lineOf(e)}
			r.section(e, n.list.at(i), p)
		}
	case n.leaf.many:
		r.values(v, n, path, at)
	default:
		if text, ok := r.scalar(v, n, path, at); ok && !n.leaf.set([]string{text}) {
			r.problem(at, path, n.wrong(text))
		}
	}
}

// values reads a list of values. One value by itself is a list, too.
func (r *reader) values(v ast.Node, n *node, path string, at int) {
	sequence, ok := v.(*ast.SequenceNode)
	if _, mapping := entriesOf(v); mapping {
		r.problem(at, path, "is a mapping: allowed: a list of "+n.leaf.allowed)
		return
	}
	if !ok {
		if text, ok := r.scalar(v, n, path, at); ok && !n.leaf.set([]string{text}) {
			r.problem(at, path, n.wrong(text))
		}
		return
	}
	var all []string
	for i, e := range sequence.Values {
		text, ok := r.scalar(e, n, element(path, i), lineOf(e))
		if ok && !n.leaf.set([]string{text}) {
			r.problem(lineOf(e), element(path, i), n.wrong(text))
			ok = false
		}
		if ok {
			all = append(all, text)
		}
	}
	n.leaf.set(all)
}

// scalar returns the text of a value, if it is of a type that the key takes.
func (r *reader) scalar(v ast.Node, n *node, path string, at int) (string, bool) {
	text, takes := "", takesText
	switch v := v.(type) {
	case *ast.StringNode:
		text = v.Value
	case *ast.LiteralNode:
		text = strings.TrimSuffix(v.Value.Value, "\n")
	case *ast.IntegerNode:
		text, takes = v.Token.Value, takesInteger
	case *ast.FloatNode:
		text, takes = v.Token.Value, takesFraction
	case *ast.BoolNode:
		text, takes = v.Token.Value, takesBool
	default:
		takes = 0
	}
	if takes&n.leaf.takes != 0 {
		return text, true
	}
	what := sort(v)
	if takes != 0 {
		what = shown(n.show(text)) + " is " + what
	} else {
		what = "is " + what
	}
	if takes != 0 && n.leaf.takes&takesText != 0 {
		what += ": put it in quotes if it is meant so"
	}
	r.problem(at, path, fmt.Sprintf("%s: allowed: %s", what, n.leaf.allowed))
	return "", false
}

// entriesOf returns what a mapping has.
func entriesOf(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func keyName(n ast.MapKeyNode) (string, bool) {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value, true
	}
	return n.GetToken().Value, n.Type() == ast.IntegerType || n.Type() == ast.BoolType
}

// sort says of which sort of YAML a node is.
func sort(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias, which this file doesn't have"
	case *ast.TagNode:
		return "a tag, which this file doesn't have"
	}
	return "something else"
}
