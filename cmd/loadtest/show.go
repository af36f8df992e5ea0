package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"loopmq/loadtest"
	"loopmq/loadtest/report"
)

const compareUsage = `Show results beside each other, each with what it is of the first.

Usage:
  loadtest compare FILE FILE...

The files are what loadtest run --json has written.
`

const reportUsage = `Show a result again.

Usage:
  loadtest report [--html FILE] FILE

  --html FILE   write it as a page with charts that needs nothing else; without it the
                result is printed as text

FILE is what loadtest run --json has written, - for the standard input.
`

const presetsUsage = `List the built-in scenarios, or print one as YAML, to start from.

Usage:
  loadtest presets [NAME]
`

func runCompare(_ context.Context, args []string, stdout, _ io.Writer) error {
	files, err := parse(newFlags("compare"), args)
	if err != nil {
		return err
	}
	if len(files) < 2 {
		return wrong("%d files: allowed: two and more", len(files))
	}
	results, err := readResults(files)
	if err != nil {
		return err
	}
	return report.Compare(stdout, files, results)
}

func runReport(_ context.Context, args []string, stdout, _ io.Writer) error {
	flags := newFlags("report")
	page := flags.String("html", "", "")
	files, err := parse(flags, args)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return wrong("%d files: allowed: one", len(files))
	}
	results, err := readResults(files)
	if err != nil {
		return err
	}
	if *page == "" {
		return report.Text(stdout, results[0])
	}
	return writeFile(*page, stdout, func(w io.Writer) error { return report.HTML(w, results[0]) })
}

func runPresets(_ context.Context, args []string, stdout, _ io.Writer) error {
	names, err := parse(newFlags("presets"), args)
	if err != nil {
		return err
	}
	if len(names) > 1 {
		return wrong("%d names: allowed: one, or none", len(names))
	}
	if len(names) == 1 {
		s, err := loadtest.Preset(names[0])
		if err != nil {
			return &usageError{err}
		}
		return s.WriteYAML(stdout)
	}
	for _, name := range loadtest.PresetNames() {
		s, err := loadtest.Preset(name)
		if err != nil {
			return err
		}
		// A scenario without a target can't be checked, and what Check fills in is what one wants to read.
		s.Targets = []string{"tcp://127.0.0.1:1883"}
		if err := s.Check(); err != nil {
			return err
		}
		s.Targets = nil
		fmt.Fprintf(stdout, "%-26s %s\n", name, report.Scenario(s))
	}
	return nil
}

// readResults reads files of results, - being the standard input.
func readResults(files []string) ([]*loadtest.Result, error) {
	results := make([]*loadtest.Result, len(files))
	for i, name := range files {
		var r io.Reader = os.Stdin
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			r = f
		}
		result, err := loadtest.ReadResult(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		results[i] = result
	}
	return results, nil
}
