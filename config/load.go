package config

import (
	"slices"
	"strings"
)

// Flag is a flag of the command line.
type Flag struct {
	Name  string // with its dashes, as it is shown
	Path  string // of its key, or @NAME for the address of a listener
	Value string
}

// Load returns what a file says, if path isn't empty, with the variables of
// environ over it, each NAME=value, and the flags over those. If there are
// problems, the configuration is no good, but may be asked for the source of a
// key, so that a caller can add problems of its own.
func Load(path string, environ []string, flags []Flag) (*Config, Problems) {
	c := New()
	if path != "" {
		if text, err := readFile(path); err != nil {
			c.problem(Source{Name: path}, "", err.Error())
		} else {
			c.readYAML(path, text)
		}
	}
	c.readEnvironment(environ)
	flags = slices.Clone(flags)
	slices.SortStableFunc(flags, func(a, b Flag) int { return order(a) - order(b) })
	for _, f := range flags {
		c.readFlag(f)
	}
	c.check()
	return c, c.problems
}

// New returns the configuration of a broker that was told nothing.
func New() *Config {
	c := &Config{sources: map[string]Source{}}
	reset(c.nodes())
	c.Listeners = standardListeners()
	return c
}

func (c *Config) readFlag(f Flag) {
	source := Source{Name: f.Name}
	name, isListener := strings.CutPrefix(f.Path, "@")
	if !isListener {
		c.set(f.Path, f.Value, source)
		return
	}
	if file, isFile := strings.CutPrefix(name, "."); isFile {
		c.certify(file, f.Value, source)
		return
	}
	i := c.listener(name)
	c.set(element("listeners", i)+".address", f.Value, source)
}

// certify sets a file of the first certificate of the listeners that flags name with
// TLS, and makes their sections.
func (c *Config) certify(file, value string, source Source) {
	found := false
	for _, name := range []string{"tls", "wss"} {
		for i := range c.Listeners {
			if c.Listeners[i].Name == name {
				found = true
				c.set(element("listeners", i)+".tls.certificates[0]."+file, value, source)
			}
		}
	}
	if !found {
		c.problem(source, "", shown(value)+": allowed: with --tls or --wss")
	}
}

// listener returns the index of the listener with a name, which is made if it
// isn't there.
func (c *Config) listener(name string) int {
	for i := range c.Listeners {
		if c.Listeners[i].Name == name {
			return i
		}
	}
	n := byName(c.nodes(), "listeners")
	n.list.resize(len(c.Listeners) + 1)
	l := &c.Listeners[len(c.Listeners)-1]
	l.Name = name
	if name == "ws" || name == "wss" {
		l.Protocol = ProtocolWebSocket
	}
	if name == "tls" || name == "wss" {
		l.TLS = fresh((*TLS).keys)
	}
	return len(c.Listeners) - 1
}

// Source returns where the value at a path came from, or what it is in if nobody
// set it.
func (c *Config) Source(path string) Source {
	for {
		if s, ok := c.sources[path]; ok {
			return s
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return Source{}
		}
		path = path[:i]
	}
}

// Problem returns a problem with the value at a path, for what only the caller
// can tell. The text begins with the value, quoted.
func (c *Config) Problem(path, text string) Problem {
	s := c.Source(path)
	return Problem{s, keyFor(s, path), text, path}
}

// order has flags for certificates read after those that make their listeners.
func order(f Flag) int {
	if strings.HasPrefix(f.Path, "@.") {
		return 1
	}
	return 0
}

// Allowed says what the value of a flag may be.
func (f Flag) Allowed() string {
	switch {
	case order(f) > 0:
		return file.allowed
	case strings.HasPrefix(f.Path, "@"):
		return listenAddress.allowed
	}
	n, err := find(New().nodes(), f.Path)
	if err != nil {
		return "what docs/configuration.md says"
	}
	return n.leaf.allowed
}
