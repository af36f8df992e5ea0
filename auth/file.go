package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxFileBytes bounds what is read of a file with users or rules.
const maxFileBytes = 64 << 20

// maxProblems bounds how many errors of a file are told.
const maxProblems = 100

// readFile reads a whole file, if it isn't absurdly large.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(text) > maxFileBytes {
		err = fmt.Errorf("%s: larger than %d MiB", path, maxFileBytes>>20)
	}
	return text, err
}

// problems collects what is wrong with the lines of a file.
type problems struct {
	path string
	errs []error
	more int
}

// add adds a problem. Its text must have nothing of a password or hash in it.
func (p *problems) add(line int, format string, args ...any) {
	if len(p.errs) == maxProblems {
		p.more++
		return
	}
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %w", p.path, line, fmt.Errorf(format, args...)))
}

// err returns all problems as one error, or nil.
func (p *problems) err() error {
	if p.more > 0 {
		return errors.Join(append(p.errs, fmt.Errorf("%s: and %d more lines", p.path, p.more))...)
	}
	return errors.Join(p.errs...)
}

// eachLine calls f with each line and its number, from 1, without what ends it.
func eachLine(text []byte, f func(n int, line string)) {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		f(n, string(bytes.TrimRight(line, blanks)))
	}
}
