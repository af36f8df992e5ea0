package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write writes a file of a test.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mustACL parses rules.
func mustACL(t testing.TB, text string) *acl {
	t.Helper()
	a, err := parseACL("acl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestACLDecides(t *testing.T) {
	t.Parallel()
	a := mustACL(t, `
# a comment
topic read public/#
topic write drop box/+

user alice
topic home/+/light
topic read $SYS/#
topic deny home/attic/light
topic write   spaced   name
topic readwrite plus/+/end
user bob
topic read #
topic deny /secret/#

user alice
topic read later

pattern write devices/%c/status
pattern readwrite users/%u/#
pattern deny users/%u/private
pattern read dev-%c-%u/x
pattern read %c/first
pattern read everywhere
pattern deny home/cellar/light
`)
	for _, test := range []struct {
		username, clientID, topic string
		read, write               Decision
	}{
		{"", "c", "public", Accept, Next},
		{"", "c", "public/a/b", Accept, Next},
		{"", "c", "publicity", Next, Next},
		{"", "c", "drop box/1", Next, Accept},
		{"", "c", "drop box/", Next, Accept},
		{"", "c", "drop box", Next, Next},
		{"", "c", "home/x/light", Next, Next},
		{"", "c", "devices/c/status", Next, Accept},
		{"", "c", "devices/d/status", Next, Next},
		{"", "c", "users//a", Next, Next}, // no user name: no rule with %u
		{"", "c", "users//private", Next, Next},
		{"alice", "c", "public/a", Next, Next}, // for clients without a user name only
		{"alice", "c", "home/x/light", Accept, Accept},
		{"alice", "c", "home/attic/light", Reject, Reject},
		{"alice", "c", "home/cellar/light", Accept, Accept}, // the user's rules come first
		{"carol", "c", "home/cellar/light", Reject, Reject},
		{"alice", "c", "$SYS/broker", Accept, Next},
		{"bob", "c", "$SYS/broker", Next, Next},
		{"bob", "c", "any/thing", Accept, Next},
		{"bob", "c", "/secret", Reject, Reject},
		{"bob", "c", "/secret/x/y", Reject, Reject},
		{"bob", "c", "secret", Accept, Next},
		{"alice", "c", "spaced   name", Next, Accept},
		{"alice", "c", "plus//end", Accept, Accept},
		{"alice", "c", "later", Accept, Next},
		{"alice", "c", "users/alice", Accept, Accept},
		{"alice", "c", "users/alice/x", Accept, Accept},
		{"alice", "c", "users/alice/private", Reject, Reject},
		{"alice", "c", "users/bob/x", Next, Next},
		{"alice", "c", "dev-c-alice/x", Accept, Next},
		{"alice", "c", "dev-d-alice/x", Next, Next},
		{"alice", "c", "everywhere", Accept, Next},
		{"alice", "c", "c/first", Accept, Next},
		{"alice", "$SYS", "$SYS/first", Accept, Next}, // by topic read $SYS/#
		{"carol", "$SYS", "$SYS/first", Next, Next},   // not by %c
		// Names that would leave their place.
		{"carol", "a/b", "devices/a/b/status", Next, Next},
		{"carol", "+", "devices/x/status", Reject, Reject},
		{"carol", "#", "everywhere", Reject, Reject},
		{"a+b", "c", "everywhere", Reject, Reject},
		{"al/ice", "c", "users/al/ice", Next, Next},
		{"al/ice", "c", "users/bob/private", Reject, Reject}, // a denial with %u can't be evaded
		{"al/ice", "c", "everywhere", Accept, Next},
		{"alice", "#", "home/x/light", Accept, Accept}, // its user's rules have no variables
	} {
		if got := a.judge(read, test.topic, test.clientID, test.username); got != test.read {
			t.Errorf("%+v: read: %v", test, got)
		}
		if got := a.judge(write, test.topic, test.clientID, test.username); got != test.write {
			t.Errorf("%+v: write: %v", test, got)
		}
	}
}

// All that is wrong is said at once, with the numbers of the lines.
func TestACLErrors(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "acl", "topic read a\ntopic reed a\n\nuser\nuser \t\nusers x\ntopic\ntopic a/#/b\r\npattern write a+/%c\n"+
		"topic read \xff\ntopic a#\nuser \xff\ntopic read fine\n")
	_, err := OpenACLFile(path)
	if err == nil {
		t.Fatal("the file was read")
	}
	want := []string{
		`:2: topic: access "reed": allowed: read, write, readwrite, deny`,
		`:4: user: the name is missing`,
		`:5: user: the name is missing`,
		`:6: "users": allowed: user, topic, pattern, and comments that begin with #`,
		`:7: topic: the Topic Filter is empty`,
		`:8: topic: wildcards of the Topic Filter: allowed: + as a whole level, # as the last level`,
		`:9: pattern: wildcards of the Topic Filter: allowed: + as a whole level, # as the last level`,
		`:10: topic: the Topic Filter is not UTF-8, or has U+0000`,
		`:11: topic: wildcards of the Topic Filter: allowed: + as a whole level, # as the last level`,
		`:12: user: the name is not UTF-8, or has U+0000`,
	}
	got := strings.Split(err.Error(), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d errors, want %d:\n%v", len(got), len(want), err)
	}
	for i := range want {
		if got[i] != path+want[i] {
			t.Errorf("got  %s\nwant %s%s", got[i], path, want[i])
		}
	}
}

func TestACLErrorsAreBounded(t *testing.T) {
	t.Parallel()
	_, err := parseACL("f", []byte(strings.Repeat("nonsense\n", 10_000)))
	if got := strings.Count(err.Error(), "\n"); got != maxProblems {
		t.Errorf("%d lines, want %d", got, maxProblems)
	}
	if !strings.HasSuffix(err.Error(), "f: and 9900 more lines") {
		t.Error(err)
	}
}

// A file that is wrong changes nothing.
func TestACLReload(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "acl", "topic read a\n")
	f, err := OpenACLFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reads := func(topic string) bool { return f.acl.Load().judge(read, topic, "c", "") == Accept }
	change := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change("topic read b\nnonsense\n")
	if err := f.Reload(); err == nil || !reads("a") || reads("b") {
		t.Errorf("after a wrong file: %v, a %v, b %v", err, reads("a"), reads("b"))
	}
	change("topic read b\n")
	apply, err := f.Prepare()
	if err != nil || !reads("a") {
		t.Errorf("Prepare: %v, a %v", err, reads("a"))
	}
	apply()
	if reads("a") || !reads("b") {
		t.Error("the new rules are not in force")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); err == nil || !reads("b") {
		t.Errorf("without the file: %v", err)
	}
}
