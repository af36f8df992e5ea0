package config

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// WriteYAML writes the configuration as a file that means the same. Behind each
// value is where it came from. Secrets are not shown.
func (c *Config) WriteYAML(w io.Writer) error {
	return c.write(w, yamlWriter{hide: true, source: func(path string) string { return " # " + c.sources[path].String() }})
}

func (c *Config) write(w io.Writer, y yamlWriter) error {
	y.section(c.nodes(), "", "")
	_, err := io.WriteString(w, y.String())
	return err
}

// yamlWriter writes keys as YAML.
type yamlWriter struct {
	strings.Builder
	hide   bool                     // secrets
	source func(path string) string // a comment behind a value; nil: none
	brief  bool                     // leaves out what is as by default
}

func (y *yamlWriter) section(nodes []*node, path, indent string) {
	for _, n := range nodes {
		at, head := join(path, n.name), indent+n.name+":"
		switch {
		case n.leaf != nil:
			if values := n.leaf.values(); values != nil && !(y.brief && !n.leaf.many && values[0] == n.leaf.standard) {
				y.WriteString(head)
				y.value(n, values, at, indent)
			}
		case n.section != nil && n.section.present():
			below := yamlWriter{hide: y.hide, source: y.source, brief: y.brief}
			below.section(n.section.open(), at, indent+"  ")
			switch {
			case below.Len() > 0:
				y.WriteString(head + "\n" + below.String())
			case n.section.optional:
				y.WriteString(head + " {}\n")
			}
		case n.list != nil && n.list.len() > 0:
			y.WriteString(head + "\n")
			for i := range n.list.len() {
				below := yamlWriter{hide: y.hide, source: y.source, brief: y.brief}
				below.section(n.list.at(i), element(at, i), indent+"    ")
				text := below.String()
				if text == "" {
					text = indent + "    {}\n"
				}
				y.WriteString(indent + "  - " + text[len(indent)+4:])
			}
		}
	}
}

func (y *yamlWriter) value(n *node, values []string, at, indent string) {
	comment := ""
	if y.source != nil {
		comment = y.source(at)
	}
	if !n.leaf.many {
		y.WriteString(" " + y.scalar(n, values[0]) + comment + "\n")
		return
	}
	y.WriteString(comment + "\n")
	for _, v := range values {
		y.WriteString(indent + "  - " + y.scalar(n, v) + "\n")
	}
}

// scalar writes a value so that it is read again as the same type.
func (y *yamlWriter) scalar(n *node, value string) string {
	if y.hide {
		value = n.show(value)
	}
	if n.leaf.takes&takesText == 0 {
		return value
	}
	if n.leaf.takes&takesInteger != 0 {
		if _, err := strconv.Atoi(value); err == nil {
			return value
		}
	}
	if isPlain(value) {
		return value
	}
	return quote(value)
}

var (
	plainText   = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./-]*$`)
	plainAmount = regexp.MustCompile(`^[0-9]+[A-Za-z][0-9A-Za-z]*$`)
)

// isPlain reports whether a text is one in YAML without quotes, too. In doubt it
// isn't.
func isPlain(s string) bool {
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
		return false
	}
	_, isSpan := parseSpan(s)
	_, isSize := parseSize(s)
	return plainText.MatchString(s) || plainAmount.MatchString(s) && (isSpan || isSize)
}

// quote writes a text in double quotes, with escapes that YAML knows.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r >= 0x7f && r <= 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// WriteReference writes a table of all keys in Markdown.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	reference(&b, New().nodes(), "", "")
	_, err := io.WriteString(w, b.String())
	return err
}

// reference writes the table of the values of a section, then its sections.
func reference(b *strings.Builder, nodes []*node, path, doc string) {
	var below []*node
	head := false
	if path != "" {
		fmt.Fprintf(b, "\n## %s\n\n%s.\n", path, capital(doc))
	}
	for _, n := range nodes {
		if n.leaf == nil {
			below = append(below, n)
			continue
		}
		if !head {
			b.WriteString("\n| key | type | default | allowed | SIGHUP | what |\n|---|---|---|---|---|---|\n")
			head = true
		}
		reload := "restart"
		if n.reload {
			reload = "reloads"
		}
		standard := n.leaf.standard
		switch {
		case n.leaf.many:
			standard = "none"
		case standard == "":
			standard = "empty"
		case !strings.Contains(standard, " "):
			standard = "`" + standard + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s | %s |\n", n.name, n.leaf.kind, standard, n.leaf.allowed, reload, n.doc)
	}
	for _, n := range below {
		at := join(path, n.name)
		if n.section != nil {
			reference(b, n.section.template(), at, n.doc)
		} else {
			reference(b, n.list.template(), at+"[]", n.doc)
		}
	}
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
