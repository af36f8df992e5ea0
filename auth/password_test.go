package auth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// Hashes that other programs made: libxcrypt, mosquitto_passwd, and the reference implementation of Argon2.
var foreignHashes = []struct{ name, hash, password string }{
	{"bcrypt 2b", "$2b$04$abcdefghijklmnopqrstuu6EHRqObzoilTUtSLMHy6BpCdW7W2.yi", "pass word ü"},
	{"bcrypt 2a", "$2a$05$CCCCCCCCCCCCCCCCCCCCC./EPcBDuEksCUAbMf8wo6uUGbMk5k0CC", "pass word ü"},
	{"bcrypt 2y", "$2y$04$......................Qzv5u2XCrVWcqkMLkUAkjkssFv213la", "pass word ü"},
	{"argon2id", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password"},
	{
		"mosquitto 2.0", "$7$101$i7RM+BO2qIFcGyQy$TpGonAFcu4pd73ZyDWE6iPAOkWFXNpv98l9lrUaPzX4L3nq8nbJYqmHVr90OChvXrjo9PMZlmYZw66GhV8t4XA==",
		"pass word ü",
	},
	{
		"mosquitto 1.6", "$6$S08rAUDwJOZTBK2E$YBwgS7G1sgjuVPrshR8rOgldo5icOdEH3Z08GRYiWeEE4hxRMzc/KDoqxVMOeKUi0UwWkd8abEMz90bkZhAKng==",
		"pass word ü",
	},
	{ // RFC 7677, section 3
		"SCRAM-SHA-256", "$scram-sha-256$4096$W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=$wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
		"pencil",
	},
}

func TestForeignHashes(t *testing.T) {
	t.Parallel()
	for _, test := range foreignHashes {
		h, err := parseHash(test.hash)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if !h.matches([]byte(test.password)) {
			t.Errorf("%s: the right password doesn't match", test.name)
		}
		for _, wrong := range []string{"", test.password + "x", test.password[1:], "\x00" + test.password} {
			if h.matches([]byte(wrong)) {
				t.Errorf("%s: %q matches", test.name, wrong)
			}
		}
	}
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	prefixes := map[Scheme]string{
		Argon2id: "$argon2id$v=19$m=19456,t=2,p=1$", Bcrypt: "$2a$10$", PBKDF2: "$7$210000$", SCRAMSHA256: "$scram-sha-256$15000$",
	}
	for _, s := range Schemes {
		first, err := HashPassword(s, "sécret")
		if err != nil {
			t.Fatal(err)
		}
		second, err := HashPassword(s, "sécret")
		if err != nil || first == second {
			t.Errorf("%s: two hashes of a password are the same: no salt? (%v)", s, err)
		}
		h, err := parseHash(first)
		if err != nil || !h.matches([]byte("sécret")) || h.matches([]byte("secret")) {
			t.Errorf("%s: what was made is not read again: %v", s, err)
		}
		if !strings.HasPrefix(first, prefixes[s]) {
			t.Errorf("%s: %.20s…", s, first)
		}
	}
	for _, test := range []struct {
		scheme   Scheme
		password string
		want     error
	}{
		{Argon2id, "", errPasswordEmpty},
		{PBKDF2, strings.Repeat("x", 65536), errPasswordLong},
		{Bcrypt, strings.Repeat("x", 73), errPasswordBcrypt},
		{SCRAMSHA256, "bell\a", errPasswordSCRAM},
		{SCRAMSHA256, "\xff", errPasswordSCRAM},
	} {
		if _, err := HashPassword(test.scheme, test.password); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.scheme, err, test.want)
		}
	}
	if _, err := HashPassword("md5", "x"); err == nil || err.Error() != `scheme "md5": allowed: argon2id, bcrypt, pbkdf2, scram-sha-256` {
		t.Error(err)
	}
}

// All that is wrong is said at once, and nothing that is secret.
func TestPasswordFileErrors(t *testing.T) {
	t.Parallel()
	const salt, key = "i7RM+BO2qIFcGyQy", "TpGonAFcu4pd73ZyDWE6iPAOkWFXNpv98l9lrUaPzX4L3nq8nbJYqmHVr90OChvXrjo9PMZlmYZw66GhV8t4XA=="
	ok := "$7$101$" + salt + "$" + key
	for _, test := range []struct{ line, want string }{
		{"# fine: a comment", ""},
		{"", ""},
		{"fine : " + ok + " \r", ""},
		{"secret", `not a line USER:HASH`},
		{"a:secret", `user "a": not a hash that is known`},
		{"b:", `user "b": not a hash that is known`},
		{"c:$", `user "c": not a hash that is known`},
		{"d:$1$secret$secret", `user "d": not a hash that is known`},
		{":" + ok, `user "": the user name is empty`},
		{"e:" + ok, ""},
		{"e:" + ok, `user "e": the user is there twice`},
		{"f\x01:" + ok, `user "f\x01": the user name is not UTF-8, or has control characters`},
		{"g\xff:" + ok, `user "g\xff": the user name is not UTF-8, or has control characters`},
		{strings.Repeat("h", 65536) + ":" + ok, `the user name is longer`},
		{"i:$7$0$" + salt + "$" + key, `user "i": PBKDF2 iterations 0: allowed: 1 to 5000000`},
		{"j:$7$5000001$" + salt + "$" + key, `user "j": PBKDF2 iterations 5000001: allowed: 1 to 5000000`},
		{"k:$7$secret$" + salt + "$" + key, `user "k": PBKDF2 iterations: allowed: a number from 1 to 5000000`},
		{"l:$7$101$" + salt, `user "l": the hash is incomplete`},
		{"m:$7$101$" + salt + "$secret==", `user "m": the hash is incomplete`},
		{"n:$7$101$c2VjcmV0$" + key, `user "n": salt of 6 bytes: allowed: 8 to 64`},
		{"o:" + ok + ":secret", `user "o": the hash is incomplete`},
		{"p:$6$" + salt, `user "p": the hash is incomplete`},
		{"q:$2b$16$abcdefghijklmnopqrstuu6EHRqObzoilTUtSLMHy6BpCdW7W2.yi", `user "q": bcrypt cost 16: allowed: 4 to 15`},
		{"r:$2b$04$abcdefghijklmnopqrstuu6EHRqObzoilTUtSLMHy6BpCdW7W2.y", `user "r": the hash is incomplete`},
		{"s:$2b$04$abcdefghijklmnopqrstuu6EHRqObzoilTUtSLMHy6BpCdW7W2.y!", `user "s": the hash is incomplete`},
		{"t:$argon2id$v=19$m=262145,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", `user "t": argon2id m 262145: allowed: 8 to 262144`},
		{"u:$argon2id$v=19$m=65536,t=17,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", `user "u": argon2id t 17: allowed: 1 to 16`},
		{"v:$argon2id$v=19$m=65536,t=2,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", `user "v": argon2id p 0: allowed: 1 to 16`},
		{"w:$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", `user "w": the hash is incomplete, or has characters that do not belong there: argon2id: allowed: version 19`},
		{"x:$argon2id$v=19$t=2,m=65536,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", `user "x": the hash is incomplete`},
		{"y:$argon2id$v=19$m=65536,t=2$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", `user "y": the hash is incomplete`},
		{"z:$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$c2VjcmV0", `user "z": argon2id hash of 6 bytes: allowed: 16 to 64`},
		{"A:$scram-sha-256$4095$W22ZaJ0SNY7soEsUEjb6gQ==$a$b", `user "A": SCRAM iterations 4095: allowed: 4096 to 5000000`},
		{"B:$scram-sha-256$4096$W22ZaJ0SNY7soEsUEjb6gQ==$a$b", `user "B": the hash is incomplete`},
		{"C:$scram-sha-256$4096$W22ZaJ0SNY7soEsUEjb6gQ==", `user "C": the hash is incomplete`},
	} {
		t.Run(strings.ReplaceAll(fmt.Sprintf("%.10s", test.line), "/", ""), func(t *testing.T) {
			text := test.line
			if test.want == `user "e": the user is there twice` {
				text += "\n" + test.line
			}
			_, err := parsePasswords("file", []byte(text))
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got  %v\nwant %s", err, test.want)
			case err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2Vj") || strings.Contains(err.Error(), key[:8])):
				t.Errorf("%v tells what is in the file", err)
			}
		})
	}
	_, err := OpenPasswordFile(writeFile(t, "passwd", "a\nb:"+ok+"\nc:x\n"), PasswordOptions{})
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "passwd:1: ") || !strings.Contains(err.Error(), "passwd:3: ") {
		t.Errorf("not all errors with their lines: %v", err)
	}
	if _, err := OpenPasswordFile(filepath.Join(t.TempDir(), "none"), PasswordOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// spy is a hash that tells how often it is asked.
type spy struct {
	right string
	asked chan string
	wait  chan struct{} // nil: none
}

func (s *spy) matches(password []byte) bool {
	s.asked <- string(password)
	if s.wait != nil {
		<-s.wait
	}
	return string(password) == s.right
}

// spyOn makes a file with the user "known", whose hash is a spy.
func spyOn(t *testing.T, o PasswordOptions) (*PasswordFile, *spy) {
	t.Helper()
	f, err := OpenPasswordFile(writeFile(t, "passwd", ""), o)
	if err != nil {
		t.Fatal(err)
	}
	s := &spy{right: "right", asked: make(chan string, 1000)}
	u := *f.users.Load()
	u.byName, u.all = map[string]hash{"known": s}, []hash{s}
	f.users.Store(&u)
	return f, s
}

// login is a CONNECT.
func login(username, password string) *loopmq.ConnectRequest {
	return &loopmq.ConnectRequest{Username: username, HasUsername: true, Password: []byte(password)}
}

func TestPasswordFileDecides(t *testing.T) {
	t.Parallel()
	f, s := spyOn(t, PasswordOptions{})
	for _, test := range []struct {
		name  string
		r     *loopmq.ConnectRequest
		want  Decision
		asked int
	}{
		{"right", login("known", "right"), Accept, 1},
		{"wrong", login("known", "wrong"), Reject, 1},
		{"unknown costs as much", login("unknown", "wrong"), Next, 1},
		{"unknown, by chance the password of the other", login("unknown", "right"), Next, 1},
		{"and again, not from the cache", login("unknown", "right"), Next, 1},
		{"empty password", login("known", ""), Reject, 1},
		{"no password", &loopmq.ConnectRequest{Username: "known", HasUsername: true}, Reject, 0},
		{"no password, unknown", &loopmq.ConnectRequest{Username: "unknown", HasUsername: true}, Next, 0},
		{"no user name", &loopmq.ConnectRequest{Password: []byte("right")}, Next, 0},
		{"other method", &loopmq.ConnectRequest{Username: "known", HasUsername: true, Password: []byte("right"), AuthenticationMethod: "X"}, Next, 0},
		{"the user name in the password", login("know", "n\x00right"), Next, 1},
	} {
		res, err := f.Authenticate(t.Context(), test.r)
		if err != nil || res.Decision != test.want || len(s.asked) != test.asked {
			t.Errorf("%s: %v, %v, %d hashes; want %v, %d", test.name, res.Decision, err, len(s.asked), test.want, test.asked)
		}
		if res.Decision == Accept && res.Identity.Username != "known" {
			t.Errorf("%s: is %q", test.name, res.Identity.Username)
		}
		for len(s.asked) > 0 {
			<-s.asked
		}
	}
	if !f.Knows("known") || f.Knows("unknown") {
		t.Error("Knows is wrong")
	}
}

// A right password is known for a while, a wrong one isn't.
func TestRightPasswordsAreKnown(t *testing.T) {
	t.Parallel()
	set := metrics.New(1)
	synctest.Test(t, func(t *testing.T) {
		f, s := spyOn(t, PasswordOptions{CacheTTL: time.Minute, Metrics: set})
		try := func(password string, want Decision, asked int) {
			t.Helper()
			res, err := f.Authenticate(t.Context(), login("known", password))
			if err != nil || res.Decision != want || len(s.asked) != asked {
				t.Errorf("%q: %v, %v, %d hashes; want %v, %d", password, res.Decision, err, len(s.asked), want, asked)
			}
			for len(s.asked) > 0 {
				<-s.asked
			}
		}
		try("wrong", Reject, 1)
		try("wrong", Reject, 1)
		try("right", Accept, 1)
		try("right", Accept, 0)
		try("righ", Reject, 1)
		time.Sleep(time.Minute)
		try("right", Accept, 1)
		if got := set.Auth.CacheHits[metrics.AuthPassword].Get(); got != 1 {
			t.Errorf("%d hits of the cache counted, want 1", got)
		}
		f, s = spyOn(t, PasswordOptions{CacheSize: -1})
		try("right", Accept, 1)
		try("right", Accept, 1)
	})
}

// After the file has changed nothing of the old one holds.
func TestPasswordFileReload(t *testing.T) {
	t.Parallel()
	line := func(user, password string) string {
		h, err := HashPassword(SCRAMSHA256, password)
		if err != nil {
			t.Fatal(err)
		}
		return user + ":" + h + "\n"
	}
	path := writeFile(t, "passwd", line("a", "one")+line("b", "two"))
	f, err := OpenPasswordFile(path, PasswordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(user, password string, want Decision) {
		t.Helper()
		if res, err := f.Authenticate(t.Context(), login(user, password)); err != nil || res.Decision != want {
			t.Errorf("%s %s: %v, %v; want %v", user, password, res.Decision, err, want)
		}
	}
	change := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect("a", "one", Accept)
	expect("b", "two", Accept)
	change(line("a", "other") + "nonsense\n")
	if err := f.Reload(); err == nil {
		t.Error("a file that is wrong was taken")
	}
	expect("a", "one", Accept)
	expect("a", "other", Reject)
	change(line("a", "other"))
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("a", "one", Reject)
	expect("a", "other", Accept)
	expect("b", "two", Next)
}

// A flood of passwords takes the processors that it may, and those that don't wait in vain get an answer.
func TestPasswordsAreCheckedAFewAtATime(t *testing.T) {
	t.Parallel()
	const parallel, flood = 2, maxWaiting + 2 + 10
	f, s := spyOn(t, PasswordOptions{Parallel: parallel})
	if res, err := f.Authenticate(t.Context(), login("known", "right")); err != nil || res.Decision != Accept {
		t.Fatal(res, err)
	}
	<-s.asked
	s.wait = make(chan struct{})
	results := make(chan error, flood)
	var wg sync.WaitGroup
	for i := range flood {
		wg.Go(func() {
			_, err := f.Authenticate(t.Context(), login("known", fmt.Sprint(i)))
			results <- err
		})
	}
	for range flood - parallel - maxWaiting { // too many: they are told so at once
		if err := <-results; !errors.Is(err, errPasswordsBusy) || reasonOf(err) != codec.ServerBusy {
			t.Errorf("got %v", err)
		}
	}
	<-s.asked
	<-s.asked
	if res, err := f.Authenticate(t.Context(), login("known", "right")); err != nil || res.Decision != Accept {
		t.Errorf("whose password is known: %v, %v", res.Decision, err)
	}
	if n := len(s.asked); n != 0 {
		t.Errorf("%d more passwords are checked, the limit is %d", n, parallel)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Authenticate(ctx, login("known", "x")); !errors.Is(err, errPasswordsBusy) {
		t.Errorf("one whose time is over: %v", err)
	}
	close(s.wait)
	wg.Wait()
	for range parallel + maxWaiting {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := f.waiting.Load(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// The file of mosquitto_passwd works as it is, and ours with mosquitto_passwd.
func TestFilesOfMosquittoPasswd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passwd")
	tool := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "mosquitto_passwd", args...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd %q: %v\n%s", args, err, out)
		}
	}
	tool("-c", "-b", path, "alice", "wonder land")
	tool("-H", "sha512", "-b", path, "bob", "builder")
	h, err := HashPassword(PBKDF2, "ours")
	if err != nil {
		t.Fatal(err)
	}
	if err := SetPassword(path, "carol", h, false); err != nil {
		t.Fatal(err)
	}
	tool("-b", path, "dave", "after ours")
	f, err := OpenPasswordFile(path, PasswordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for user, password := range map[string]string{"alice": "wonder land", "bob": "builder", "carol": "ours", "dave": "after ours"} {
		if res, err := f.Authenticate(t.Context(), login(user, password)); err != nil || res.Decision != Accept {
			t.Errorf("%s: %v, %v", user, res.Decision, err)
		}
		if res, err := f.Authenticate(t.Context(), login(user, "x")); err != nil || res.Decision != Reject {
			t.Errorf("%s with a wrong password: %v, %v", user, res.Decision, err)
		}
	}
}

// Whatever a file holds, reading it doesn't panic, and what is accepted is within the bounds on costs.
func FuzzPasswordFile(f *testing.F) {
	for _, h := range foreignHashes {
		f.Add([]byte("user:" + h.hash + "\n"))
	}
	f.Add([]byte("# comment\n\na:$7$1$$\nb:$2b$\nc:$argon2id$v=19$m=8,t=1,p=1$$\n:\n::$\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := parsePasswords("file", text)
		if err != nil {
			return
		}
		if len(u.byName) != len(u.all) {
			t.Fatalf("%d users, %d hashes", len(u.byName), len(u.all))
		}
		for name, h := range u.byName {
			switch h := h.(type) {
			case argon2Hash:
				if h.memory > maxArgon2Memory || h.passes > maxArgon2Passes || h.passes < 1 || h.threads < 1 || h.threads > maxArgon2Threads {
					t.Fatalf("%q: %d %d %d", name, h.memory, h.passes, h.threads)
				}
				h.memory, h.passes = min(h.memory, 64), 1 // its costs are not what is tested
				h.matches([]byte("x"))
			case pbkdf2Hash:
				if h.iterations > maxPBKDF2Iterations {
					t.Fatalf("%q: %d", name, h.iterations)
				}
				h.iterations = min(h.iterations, 10)
				h.matches([]byte("x"))
			case scramHash:
				if h.Iters > maxSCRAMIterations {
					t.Fatalf("%q: %d", name, h.Iters)
				}
				h.Iters = min(h.Iters, 10)
				h.matches([]byte("x"))
				text := u.byName[name].(scramHash).String()
				if again, err := parseHash(text); err != nil || again.(scramHash).String() != text {
					t.Fatalf("%q: not the same when written: %v", name, err)
				}
			case sha512Hash:
				h.matches([]byte("x"))
			case bcryptHash:
				copy(h[4:], "04") // likewise
				h.matches([]byte("x"))
			}
			if _, err := u.credentials(name); err != nil {
				t.Fatal(err)
			}
		}
		// An edit changes the line of its user and nothing else.
		out, n := withoutUser(text, "nobody at all", "x:y\n")
		if n == 0 && string(out) != string(text) {
			t.Fatalf("%q became %q", text, out)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	for _, s := range Schemes {
		text, err := HashPassword(s, "password")
		if err != nil {
			b.Fatal(err)
		}
		h, err := parseHash(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("scheme="+string(s), func(b *testing.B) {
			for b.Loop() {
				h.matches([]byte("passwort"))
			}
		})
	}
}
