package auth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const someHash = "$2b$04$abcdefghijklmnopqrstuu6EHRqObzoilTUtSLMHy6BpCdW7W2.yi"

// expectFile compares the contents of a file, and its mode with 0600.
func expectFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("the file has %q, want %q", got, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) > 2 {
		t.Errorf("the directory has %v, %v", left, err)
	}
}

func TestEditPasswordFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passwd")
	if err := SetPassword(path, "a", someHash, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	if err := SetPassword(path, "a", someHash, true); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, "a:"+someHash+"\n")

	if err := os.WriteFile(path, []byte("# a:comment\n\n a : old\nnonsense\nb:old\na:twice"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := SetPassword(path, "a", someHash, true); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, "# a:comment\n\na:"+someHash+"\nnonsense\nb:old\n")
	if err := DeletePassword(path, "b"); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, "# a:comment\n\na:"+someHash+"\nnonsense\n")
	if err := DeletePassword(path, "b"); !errors.Is(err, ErrNoUser) || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if err := DeletePassword(path, "# a"); !errors.Is(err, ErrNoUser) {
		t.Errorf("a comment is no user: %v", err)
	}
	if err := os.WriteFile(path, []byte("c:old"), 0o600); err != nil { // no newline at the end
		t.Fatal(err)
	}
	if err := SetPassword(path, "a", someHash, false); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, "c:old\na:"+someHash+"\n")

	for _, name := range []string{"", "a:b", "#a", " a", "a\t", "a\nb", "\xff", strings.Repeat("a", 65536)} {
		if err := SetPassword(path, name, someHash, false); err == nil {
			t.Errorf("%.20q is a user", name)
		}
	}
	if err := SetPassword(path, "a", "secret", false); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	expectFile(t, path, "c:old\na:"+someHash+"\n")
}

// A link stays one, and the file keeps its owner, so that the broker's user can still read what root edits.
func TestEditKeepsLinkAndOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "passwd"), filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	uid := os.Geteuid()
	if uid == 0 { // only root can give files away
		uid = 12345
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := SetPassword(link, "a", someHash, false); err != nil {
		t.Fatal(err)
	}
	expectFile(t, path, "a:"+someHash+"\n")
	info, err := os.Lstat(link)
	if err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is %v, %v", info.Mode(), err)
	}
	if info, err = os.Stat(path); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(uid) {
		t.Errorf("the file has the owner %v, want %d", info.Sys(), uid)
	}
}

// Edits at the same time lose nothing, and who reads meanwhile sees a whole file.
func TestEditsAtTheSameTime(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "passwd", "first:"+someHash+"\n")
	f, err := OpenPasswordFile(path, PasswordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const n = 30
	for i := range n {
		wg.Go(func() {
			if err := SetPassword(path, fmt.Sprint("user", i), someHash, false); err != nil {
				t.Error(err)
			}
			if err := f.Reload(); err != nil || !f.Knows("first") {
				t.Errorf("a reader: %v", err)
			}
		})
	}
	wg.Wait()
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if !f.Knows(fmt.Sprint("user", i)) {
			t.Errorf("user%d is lost", i)
		}
	}
}
