package config

import (
	"fmt"
	"strings"
)

// Source is where a value came from. The zero value is the default.
type Source struct {
	Name string // a file, a variable of the environment, or a flag with its dashes
	Line int    // within a file, else 0
}

// String returns what operators know the place by, such as "loopmq.yaml:12",
// "LOOPMQ_LOG_LEVEL", "--tcp" or "default".
func (s Source) String() string {
	switch {
	case s.Name == "":
		return "default"
	case s.Line > 0:
		return fmt.Sprintf("%s:%d", s.Name, s.Line)
	}
	return s.Name
}

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Source Source
	Key    string // its path, such as listeners[0].address; empty: the file as a whole
	Text   string // the value, what is wrong with it, and what is allowed

	path string // of the key, whether or not it is shown
}

// Error returns the problem on one line.
func (p Problem) Error() string {
	switch {
	case strings.HasPrefix(p.Source.Name, "--"): // The flag is the key, and may have it in the value.
		return p.Source.Name + " " + p.Text
	case p.Key == "" && p.Source.Name == "":
		return p.Text
	case p.Key == "":
		return p.Source.String() + ": " + p.Text
	case p.Source.Name == "":
		return p.Key + ": " + p.Text
	}
	return p.Source.String() + ": " + p.Key + ": " + p.Text
}

// Problems are all that is wrong with a configuration, in the order in which it
// was read.
type Problems []Problem

// Error returns the problems, one a line.
func (p Problems) Error() string {
	var b strings.Builder
	for i, problem := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(problem.Error())
	}
	return b.String()
}

// shownMax is how much of a wrong value a problem repeats, in bytes.
const shownMax = 100

// shown returns a value as problems repeat it.
func shown(value string) string {
	if len(value) > shownMax {
		value = value[:shownMax] + "…"
	}
	return fmt.Sprintf("%q", value)
}
