package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"loopmq/loadtest/plan"
)

// A usageError is what is wrong with a command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func wrong(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// newFlags returns a set of flags that says nothing by itself.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

// parse reads flags wherever they stand, and returns what isn't one.
func parse(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			return nil, err
		case err != nil:
			return nil, &usageError{err}
		case flags.NArg() == 0:
			return rest, nil
		}
		before := len(args) - flags.NArg()
		if before > 0 && args[before-1] == "--" {
			return append(rest, flags.Args()...), nil
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
}

// value is a flag of a type that package flag hasn't.
func value[T any](flags *flag.FlagSet, name string, to *T, parse func(string) (T, error)) {
	flags.Func(name, "", func(text string) error {
		v, err := parse(text)
		if err == nil {
			*to = v
		}
		return err
	})
}

// values is a flag that may be repeated. The first replaces what was there.
func values(flags *flag.FlagSet, name string, to *[]string) {
	first := true
	flags.Func(name, "", func(text string) error {
		if first {
			*to, first = nil, false
		}
		*to = append(*to, text)
		return nil
	})
}

// whole reads a number of things: 500, 50k.
func whole(text string) (int, error) {
	v, err := plan.ParseCount(text)
	if err == nil && (v != math.Trunc(v) || v > math.MaxInt32) {
		err = fmt.Errorf("%q: allowed: a whole number, such as 500 or 50k", text)
	}
	return int(v), err
}

// small reads a number that fits a byte.
func small(text string) (byte, error) {
	v, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%q: allowed: a number from 0 to 255", text)
	}
	return byte(v), nil
}

// sizeOf reads a size in bytes: 16GiB.
func sizeOf(text string) (float64, error) {
	v, err := humanize.ParseBytes(text)
	if err != nil {
		return 0, fmt.Errorf("%q: allowed: a size, such as 16GiB", text)
	}
	return float64(v), nil
}

// bitRate reads bits a second: 10G, 10Gbit/s.
func bitRate(text string) (float64, error) {
	return plan.ParseCount(strings.TrimSuffix(strings.TrimSuffix(text, "/s"), "bit"))
}

// share reads a part of a whole: 50%, 0.5.
func share(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("%q: allowed: a share, such as 0.5 or 50%%", text)
	}
	return v, nil
}
