package auth

import (
	"fmt"
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

// matchesPlainly is the rule of the standard, level by level, for a filter without variables.
func matchesPlainly(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		switch {
		case level == "#":
			return true
		case i == len(t):
			return false
		case level != "+" && level != t[i]:
			return false
		}
	}
	return len(f) == len(t)
}

// Whatever a file holds, reading it doesn't panic, and the tree says what its filters say one by one.
func FuzzACL(f *testing.F) {
	f.Add([]byte("topic read a/+\nuser u\ntopic deny #\npattern write %c/%u/x%c\n# comment\n"), "a/b", "c", "u")
	f.Add([]byte("topic a/#\ntopic +/b\ntopic readwrite $SYS/#"), "$SYS/a", "+", "")
	f.Add([]byte("user \ntopic\npattern\ntopic x y z\n"), "/", "a/b", "a#")
	f.Fuzz(func(t *testing.T, text []byte, topic, clientID, username string) {
		a, err := parseACL("acl", text)
		if err != nil {
			return
		}
		for _, want := range []access{read, write} {
			a.judge(want, topic, clientID, username)
		}
		// Rules before the first user, one by one.
		var got access
		n := 0
		eachLine(text, func(_ int, line string) {
			line = strings.TrimLeft(line, " ")
			word, rest, _ := strings.Cut(line, " ")
			rest = strings.Trim(rest, blanks)
			if word == "user" {
				n = -1 << 30
			}
			if word != "topic" {
				return
			}
			n++
			what, filter := read|write, rest
			if w, f, two := strings.Cut(rest, " "); two {
				what, filter = accesses[w], strings.Trim(f, blanks)
			}
			if n > 0 && matchesPlainly(filter, topic) {
				got |= what
			}
		})
		if tree := a.anonymous.match(topic, clientID, username); tree != got {
			t.Errorf("the tree says %b, the rules one by one %b", tree, got)
		}
	})
}

// A look-up costs by the levels of the topic, not by the number of rules.
func BenchmarkACL(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		var text strings.Builder
		text.WriteString("user u\n")
		for i := range n {
			fmt.Fprintf(&text, "topic read building/%d/floor/+/room/%d\n", i%1000, i)
		}
		text.WriteString("pattern readwrite devices/%c/#\npattern read users/%u/+\n")
		a := mustACL(b, text.String())
		b.Run(fmt.Sprintf("rules=%d/topic", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if a.judge(read, "building/7/floor/3/room/7", "c", "u") != Accept {
					b.Fatal("denied")
				}
			}
		})
		b.Run(fmt.Sprintf("rules=%d/pattern", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if a.judge(write, "devices/c/a/b", "c", "u") != Accept {
					b.Fatal("denied")
				}
			}
		})
	}
}

// A look-up on an event loop must leave no garbage.
func TestACLAllocatesNothing(t *testing.T) {
	a := mustACL(t, "user u\ntopic read a/+/c\npattern write d-%c/%u/#\n")
	n := testing.AllocsPerRun(100, func() {
		if a.judge(read, "a/b/c", "c", "u") != Accept || a.judge(write, "d-c/u/x", "c", "u") != Accept {
			t.Error("denied")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
