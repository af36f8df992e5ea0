package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// writeFile writes a file, - being stdout. It is there once it is whole: what was there before stays until then.
func writeFile(name string, stdout io.Writer, write func(io.Writer) error) error {
	if name == "-" {
		return write(stdout)
	}
	f, path, err := createBeside(name)
	if err != nil {
		return err
	}
	if path == "" {
		err = errors.Join(write(f), f.Close())
	} else if err = errors.Join(write(f), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if path != "" {
			_ = os.Remove(f.Name())
		}
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// createBeside creates the file that will be path, which is what name leads to. A device or a pipe, such as /dev/stderr, is opened as it is,
// and then there is no path.
func createBeside(name string) (f *os.File, path string, err error) {
	mode := os.FileMode(0o666)
	switch info, err := os.Stat(name); {
	case err == nil && info.IsDir():
		return nil, "", fmt.Errorf("%s is a directory", name)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		return f, "", err
	case err == nil:
		mode = info.Mode().Perm()
	}
	path = name
	if real, err := filepath.EvalSymlinks(name); err == nil {
		path = real
	}
	f, err = os.OpenFile(path+"."+rand.Text()[:8]+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	return f, path, err
}

// writable says if files can't be written, before a run that would be in vain.
func writable(names ...string) error {
	for _, name := range names {
		if info, err := os.Stat(name); name == "" || name == "-" || err == nil && info.Mode().Type()&^os.ModeDir != 0 {
			continue // to open a pipe would wait for its reader
		}
		f, _, err := createBeside(name)
		if err != nil {
			return err
		}
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	return nil
}
