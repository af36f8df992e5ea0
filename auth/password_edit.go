package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoUser says that a password file doesn't have that user.
var ErrNoUser = errors.New("no such user")

// SetPassword writes the hash of a user, as HashPassword makes it, into a password
// file, in place of the one that it has or as a new line at the end. All other lines
// stay as they are. The file must be there, unless create is true.
//
// The file is replaced as a whole, with mode 0600 and the owner that it had, so that
// a broker that reads it meanwhile sees the old or the new one.
func SetPassword(path, username, hash string, create bool) error {
	if err := checkNewUsername(username); err != nil {
		return err
	}
	if _, err := parseHash(hash); err != nil {
		return err
	}
	return edit(path, create, func(text []byte) ([]byte, error) {
		text, n := withoutUser(text, username, username+":"+hash+"\n")
		if n > 0 {
			return text, nil
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		return append(text, username+":"+hash+"\n"...), nil
	})
}

// DeletePassword removes a user from a password file; else it is like SetPassword.
// The error wraps ErrNoUser if there is none.
func DeletePassword(path, username string) error {
	return edit(path, false, func(text []byte) ([]byte, error) {
		text, n := withoutUser(text, username, "")
		if n == 0 {
			return nil, fmt.Errorf("%s: user %.60q: %w", path, username, ErrNoUser)
		}
		return text, nil
	})
}

// checkNewUsername reports what is wrong with a user name that is to be written.
func checkNewUsername(name string) error {
	if err := checkUsername(name); err != nil {
		return err
	}
	if strings.Contains(name, ":") || name[0] == '#' || strings.Trim(name, blanks) != name {
		return errors.New("the user name has a colon, begins with #, or begins or ends with a blank: a line of the file can't say that")
	}
	return nil
}

// withoutUser replaces the first line of a user, removes any other, and says how
// many there were.
func withoutUser(text []byte, username, replacement string) (out []byte, n int) {
	for line := range bytes.Lines(text) {
		name, _, ok := cutUser(string(line))
		if !ok || line[0] == '#' || name != username {
			out = append(out, line...)
			continue
		}
		if n++; n == 1 {
			out = append(out, replacement...)
		}
	}
	return out, n
}

// edit replaces a file by what change makes of it, one edit at a time.
func edit(path string, create bool, change func([]byte) ([]byte, error)) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // the link stays
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() // and with it goes the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("%s: lock: %w", dir.Name(), err)
	}
	info, err := os.Stat(path)
	var text []byte
	switch {
	case err == nil:
		text, err = readFile(path)
	case create && errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return err
	}
	if text, err = change(text); err != nil {
		return err
	}
	return replace(path, text, info, dir)
}

// replace puts a file in the place of another, whose owner it gets; info is nil if
// there is none.
func replace(path string, text []byte, info fs.FileInfo, dir *os.File) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".passwd-") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if info != nil {
		if s, ok := info.Sys().(*syscall.Stat_t); ok && (int(s.Uid) != os.Geteuid() || int(s.Gid) != os.Getegid()) {
			if err := f.Chown(int(s.Uid), int(s.Gid)); err != nil {
				return fmt.Errorf("%s: the new file can't have the owner of the old one: %w", path, err)
			}
		}
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return dir.Sync()
}
