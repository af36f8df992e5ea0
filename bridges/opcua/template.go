package opcuabridge

import (
	"fmt"
	"strings"

	"loopmq/codec"
)

// template makes Topic Names, of text and of variables in braces.
type template []piece

// piece is text, or a variable.
type piece struct {
	text     string
	variable string
}

// The variables.
const (
	varEndpoint   = "endpoint"
	varBrowsePath = "browse_path"
	varBrowseName = "browse_name"
	varNodeID     = "node_id"
)

// parseTemplate reads a template. endpoint, which is known, becomes text.
func parseTemplate(text, endpoint string) (template, error) {
	var t template
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return nil, fmt.Errorf("%q has a } without a {", text)
		}
		t = t.add(before)
		if !found {
			break
		}
		name, behind, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("%q has a { without a }", text)
		}
		switch name {
		case varEndpoint:
			t = t.add(endpoint)
		case varBrowsePath, varBrowseName, varNodeID:
			t = append(t, piece{variable: name})
		default:
			return nil, fmt.Errorf("%q has no variable {%s}: allowed: {endpoint}, {browse_path}, {browse_name}, {node_id}", text, name)
		}
		rest = behind
	}
	if sample := t.expand(&place{names: []string{"x"}, node: "x"}); !codec.ValidTopicName([]byte(sample)) || strings.HasPrefix(sample, "$") {
		return nil, fmt.Errorf("%q: allowed: a Topic Name that doesn't begin with $", text)
	}
	return t, nil
}

// add appends text.
func (t template) add(text string) template {
	if text == "" {
		return t
	}
	if n := len(t); n > 0 && t[n-1].variable == "" {
		t[n-1].text += text
		return t
	}
	return append(t, piece{text: text})
}

// place is where a node is.
type place struct {
	names []string // browse names, from below the root of the mapping, which is the first
	node  string   // the node id, as portable returns it
}

// expand returns the Topic Name of a node.
func (t template) expand(p *place) string {
	var b strings.Builder
	for _, x := range t {
		switch x.variable {
		case "":
			b.WriteString(x.text)
		case varBrowsePath:
			for i, name := range p.names {
				if i > 0 {
					b.WriteByte('/')
				}
				b.WriteString(level(name))
			}
		case varBrowseName:
			b.WriteString(level(p.names[len(p.names)-1]))
		case varNodeID:
			b.WriteString(level(p.node))
		}
	}
	return b.String()
}

// level makes any text a topic level: what means something in topics becomes _.
func level(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '/' || r == '+' || r == '#' || r < ' ' || r >= 0x7f && r < 0xa0 || r == '\uFFFD':
			return '_'
		}
		return r
	}, text)
	if text == "" {
		return "_"
	}
	if text[0] == '$' { // a topic may begin with it
		return "_" + text[1:]
	}
	return text
}

// filter returns a Topic Filter that matches all Topic Names of t, and as few others as filters can say.
func (t template) filter() string {
	var levels []string
	var current strings.Builder
	wild := false
	flush := func() {
		if wild {
			levels = append(levels, "+")
		} else {
			levels = append(levels, current.String())
		}
		current.Reset()
		wild = false
	}
	for _, x := range t {
		switch x.variable {
		case "":
			for i, text := range strings.Split(x.text, "/") {
				if i > 0 {
					flush()
				}
				current.WriteString(text)
			}
		case varBrowsePath: // any number of levels
			return strings.Join(append(levels, "#"), "/")
		default:
			wild = true
		}
	}
	flush()
	return strings.Join(levels, "/")
}
