package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// text returns a function that writes it.
func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

// TestWriteFile: what can't be written whole isn't left behind, and what was there stays.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "report"), filepath.Join(dir, "link")
	if err := os.Symlink("report", link); err != nil {
		t.Fatal(err)
	}
	halfway := func(w io.Writer) error {
		_, _ = io.WriteString(w, "half a rep")
		return io.ErrShortWrite
	}
	for _, step := range []struct {
		name  string
		write func(io.Writer) error
		fails bool
		want  string // what is there then
	}{
		{path, halfway, true, ""},
		{path, text("first"), false, "first"},
		{path, halfway, true, "first"},
		{link, text("second"), false, "second"},
		{dir, text("third"), true, "second"},
		{filepath.Join(path, "x"), text("third"), true, "second"},
	} {
		if err := writeFile(step.name, nil, step.write); (err != nil) != step.fails {
			t.Errorf("%s: got %v, want an error: %v", step.name, err, step.fails)
		}
		if got, _ := os.ReadFile(path); string(got) != step.want {
			t.Errorf("%s: the file has %q, want %q", step.name, got, step.want)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, nil, text("private")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, want 0600 as before (%v)", info.Mode(), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

// TestWriteDevice: a device is written to, not replaced. This one is a disk without room.
func TestWriteDevice(t *testing.T) {
	if err := writable("/dev/full", "/dev/null", "-", ""); err != nil {
		t.Error(err)
	}
	if err := writeFile("/dev/null", nil, text("x")); err != nil {
		t.Error(err)
	}
	if err := writeFile("/dev/full", nil, text("x")); err == nil {
		t.Error("a full disk is no error")
	}
	if info, err := os.Stat("/dev/full"); err != nil || info.Mode().IsRegular() {
		t.Errorf("/dev/full is %v, %v", info, err)
	}
}
