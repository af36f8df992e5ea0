package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// EnvironmentPrefix begins the name of each variable of the environment that is
// read. A variable is the prefix and the path of its key in capitals, with
// underscores for what isn't a letter or a digit: LOOPMQ_LOG_LEVEL for log.level,
// LOOPMQ_LISTENERS_0_ADDRESS for listeners[0].address.
const EnvironmentPrefix = "LOOPMQ_"

// FileVariable names the configuration file where no flag does.
const FileVariable = "LOOPMQ_CONFIG"

// Kubernetes puts such variables into every container if there is a Service that
// is called loopmq. Others are for loopmq ctl, and for tests.
var foreign = regexp.MustCompile(`^LOOPMQ_((.*_)?SERVICE_(HOST|PORT)(_.*)?|(.*_)?PORT(_[0-9]+_(TCP|UDP)(_.*)?)?|CTL_.*|TEST_.*)$`)

// readEnvironment puts the variables of environ, each NAME=value, into c.
func (c *Config) readEnvironment(environ []string) {
	variables := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, EnvironmentPrefix) && name != FileVariable {
			variables[name] = value
		}
	}
	var order []string
	for name := range variables {
		order = append(order, name)
	}
	slices.SortFunc(order, compareVariables)
	for _, name := range order {
		source := Source{Name: name}
		path, ok := pathOf(c.nodes(), strings.TrimPrefix(name, EnvironmentPrefix), "")
		if !ok {
			if !foreign.MatchString(name) {
				c.problem(source, "", "there is no such variable"+suggest(name, c.variables()))
			}
			continue
		}
		c.set(path, variables[name], source)
	}
}

// compareVariables orders by name, with 9 before 10: elements are added in order.
func compareVariables(a, b string) int {
	x, y := strings.Split(a, "_"), strings.Split(b, "_")
	for i := range min(len(x), len(y)) {
		m, err1 := strconv.Atoi(x[i])
		n, err2 := strconv.Atoi(y[i])
		if err1 == nil && err2 == nil && m != n {
			return m - n
		}
		if order := strings.Compare(x[i], y[i]); order != 0 {
			return order
		}
	}
	return len(x) - len(y)
}

// pathOf returns the path of the value that the rest of a variable's name stands
// for.
func pathOf(nodes []*node, rest, path string) (string, bool) {
	for _, n := range nodes {
		after, ok := strings.CutPrefix(rest, strings.ToUpper(n.name))
		if !ok || after != "" && after[0] != '_' {
			continue
		}
		at := join(path, n.name)
		below := strings.TrimPrefix(after, "_")
		switch {
		case n.leaf != nil:
			if after == "" {
				return at, true
			}
		case n.section != nil:
			if found, ok := pathOf(n.section.template(), below, at); ok {
				return found, true
			}
		default:
			index, key, _ := strings.Cut(below, "_")
			i, err := strconv.Atoi(index)
			if err != nil || i < 0 || strconv.Itoa(i) != index {
				continue
			}
			if found, ok := pathOf(n.list.template(), key, element(at, i)); ok {
				return found, true
			}
		}
	}
	return "", false
}

// variables returns the names of all variables, with 0 for every index.
func (c *Config) variables() []string {
	var all []string
	walkTemplate(c.nodes(), "", func(path string, _ *node) {
		all = append(all, variable(strings.ReplaceAll(path, "[]", "[0]")))
	})
	return all
}

var punctuation = strings.NewReplacer(".", "_", "[", "_", "]", "")

// variable returns the name of the variable for a path.
func variable(path string) string {
	return EnvironmentPrefix + strings.ToUpper(punctuation.Replace(path))
}

// set puts the text of a variable or flag into the value at a path. Lists are
// separated by commas.
func (c *Config) set(path, value string, source Source) {
	n, err := find(c.nodes(), path)
	if err != nil {
		c.problem(source, path, err.Error())
		return
	}
	values := []string{value}
	if n.leaf.many {
		values = nil
		for v := range strings.SplitSeq(value, ",") {
			if v = strings.TrimSpace(v); v != "" {
				values = append(values, v)
			}
		}
	}
	c.sources[path] = source
	if !n.leaf.set(values) {
		c.problems = append(c.problems, Problem{source, keyFor(source, path), n.wrong(value), path})
	}
}

// keyFor returns the key that a problem of a variable or flag names: none where
// that would say the same again.
func keyFor(source Source, path string) string {
	if strings.HasPrefix(source.Name, "--") || source.Name == variable(path) {
		return ""
	}
	return path
}

func (c *Config) problem(source Source, key, text string) {
	c.problems = append(c.problems, Problem{source, key, text, key})
}
