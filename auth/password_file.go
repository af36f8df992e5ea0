package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// PasswordOptions are how passwords are checked. The zero value means the defaults.
type PasswordOptions struct {
	// Parallel is how many passwords are checked at one time; each takes a processor,
	// and memory if it is hashed with argon2id. Default: half of the processors, at
	// least 1.
	Parallel int
	// CacheSize is how many right passwords are known again without checking them;
	// negative: none. Default: 10,000. The cache has no password, but a keyed hash
	// of each.
	CacheSize int
	// CacheTTL is for how long. Default: 5 minutes.
	CacheTTL time.Duration
	// Metrics counts; nil: nothing.
	Metrics *metrics.Set
}

// The defaults.
const (
	defaultCacheSize = 10_000
	defaultCacheTTL  = 5 * time.Minute
)

// maxWaiting bounds the clients whose password waits to be checked. More are told
// to come again, so that those whose password is known needn't wait behind them.
const maxWaiting = 32

var errPasswordsBusy = codec.NewError(codec.ServerBusy, "too many passwords wait to be checked")

// PasswordFile is a Method that knows the users of a file, with a line USER:HASH
// for each. Lines that begin with # are comments. mosquitto's files are understood.
//
// A wrong password is rejected; a user that isn't in the file is left to the next
// Method, after as much time as a wrong password takes. Its methods may be called by
// any number of goroutines.
type PasswordFile struct {
	path    string
	o       PasswordOptions
	slots   chan struct{} // one in it for each password that is checked
	waiting atomic.Int64  // those, and who waits for one
	users   atomic.Pointer[users]
}

var _ Method = (*PasswordFile)(nil)

// users is what a file says. It doesn't change, but for what was found out about it.
type users struct {
	byName map[string]hash
	all    []hash            // as in the file
	scram  []hash            // those for SCRAM
	secret [sha256.Size]byte // the file's own: as long as it stays, so does this

	// right has users with their passwords, and until when they are known, by a keyed
	// hash of both, so that no password stays in it. nil: none is kept.
	right *lru.Cache[cacheKey, time.Time]
	key   [32]byte
}

// OpenPasswordFile reads a file of users. Its error names all lines that are wrong.
func OpenPasswordFile(path string, o PasswordOptions) (*PasswordFile, error) {
	if o.Parallel <= 0 {
		o.Parallel = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if o.CacheSize == 0 {
		o.CacheSize = defaultCacheSize
	}
	if o.CacheTTL <= 0 {
		o.CacheTTL = defaultCacheTTL
	}
	f := &PasswordFile{path: path, o: o, slots: make(chan struct{}, o.Parallel)}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads the file again. If anything is wrong with it, the users stay as they
// are. Who is connected stays so; see Knows.
func (f *PasswordFile) Reload() error {
	apply, err := f.Prepare()
	if err != nil {
		return err
	}
	apply()
	return nil
}

// Prepare reads the file, and returns what makes its users the current ones, so that
// several files can be changed together or not at all.
func (f *PasswordFile) Prepare() (apply func(), err error) {
	text, err := readFile(f.path)
	if err != nil {
		return nil, err
	}
	u, err := parsePasswords(f.path, text)
	if err != nil {
		return nil, err
	}
	// What was found out about the old file is not true of the new one.
	_, _ = rand.Read(u.key[:]) // it doesn't fail
	if f.o.CacheSize > 0 {
		if u.right, err = lru.New[cacheKey, time.Time](f.o.CacheSize); err != nil {
			return nil, err
		}
	}
	return func() { f.users.Store(u) }, nil
}

// Knows reports whether the file has a user.
func (f *PasswordFile) Knows(username string) bool {
	_, known := f.users.Load().byName[username]
	return known
}

// Name returns "password_file".
func (f *PasswordFile) Name() string { return metrics.AuthPassword.String() }

// Authenticate checks user name and password of a CONNECT.
func (f *PasswordFile) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (Result, error) {
	if r.AuthenticationMethod != "" || !r.HasUsername {
		return Result{}, nil
	}
	u := f.users.Load()
	h, known := u.byName[r.Username]
	right := false
	if r.Password != nil {
		key := u.keyOf(r.Username, r.Password)
		if right = u.isRight(key); right {
			if f.o.Metrics != nil {
				f.o.Metrics.Auth.CacheHits[metrics.AuthPassword].Inc()
			}
		} else {
			if !known {
				h = u.like(r.Username, u.all)
			}
			var err error
			if right, err = f.check(ctx, h, r.Password); err != nil {
				return Result{}, err
			}
			if right = right && known; right {
				u.remember(key, time.Now().Add(f.o.CacheTTL))
			}
		}
	}
	switch {
	case right:
		return Result{Decision: Accept, Identity: loopmq.Identity{Username: r.Username}}, nil
	case known:
		return Result{Decision: Reject}, nil
	}
	return Result{}, nil
}

// check checks a password, when it is its turn.
func (f *PasswordFile) check(ctx context.Context, h hash, password []byte) (bool, error) {
	defer f.waiting.Add(-1)
	if f.waiting.Add(1) > int64(maxWaiting+cap(f.slots)) {
		return false, errPasswordsBusy
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
		return h.matches(password), nil
	case <-ctx.Done():
		return false, errPasswordsBusy
	}
}

// keyOf returns what stands for a user and a password in u.right.
func (u *users) keyOf(username string, password []byte) (k cacheKey) {
	m := hmac.New(sha256.New, u.key[:])
	m.Write([]byte(username))
	m.Write([]byte{0}) // which no user name has
	m.Write(password)
	m.Sum(k[:0])
	return k
}

func (u *users) isRight(k cacheKey) bool {
	if u.right == nil {
		return false
	}
	until, ok := u.right.Get(k)
	return ok && time.Now().Before(until)
}

func (u *users) remember(k cacheKey, until time.Time) {
	if u.right != nil {
		u.right.Add(k, until)
	}
}

// like returns one of the hashes of others for a user that there isn't, always the
// same one for a name: what is done with it costs as much as with a user's own.
func (u *users) like(username string, of []hash) hash {
	if len(of) == 0 {
		return nobody
	}
	n := binary.BigEndian.Uint64(u.fake(username))
	return of[n%uint64(len(of))]
}

// fake returns bytes that belong to a user name and tell nothing.
func (u *users) fake(username string) []byte {
	m := hmac.New(sha256.New, u.secret[:])
	m.Write([]byte(username))
	return m.Sum(nil)
}

// nobody costs what a new user would.
var nobody = argon2Hash{memory: newArgon2Memory, passes: newArgon2Passes, threads: 1, salt: make([]byte, newSaltBytes), key: make([]byte, 32)}

// What is wrong with a line.
var (
	errLine      = errors.New("not a line USER:HASH: allowed: such lines, and comments that begin with #; loopmq passwd makes them")
	errUserEmpty = errors.New("the user name is empty")
	errUserText  = errors.New("the user name is not UTF-8, or has control characters")
	errUserLong  = errors.New("the user name is longer than the 65535 bytes that a CONNECT can hold")
	errUserTwice = errors.New("the user is there twice")
)

// parsePasswords reads a file. No error has anything of a hash in it.
func parsePasswords(path string, text []byte) (*users, error) {
	u := &users{byName: map[string]hash{}}
	p := problems{path: path}
	eachLine(text, func(n int, line string) {
		if line == "" || line[0] == '#' {
			return
		}
		name, hashText, ok := cutUser(line)
		if !ok {
			p.add(n, "%w", errLine) // it may be a password
			return
		}
		h, err := parseHash(hashText)
		switch {
		case checkUsername(name) != nil:
			err = checkUsername(name)
		case u.byName[name] != nil:
			err = errUserTwice
		}
		if err != nil {
			p.add(n, "user %.60q: %w", name, err)
			return
		}
		u.byName[name] = h
		u.all = append(u.all, h)
		if _, ok := h.(scramHash); ok {
			u.scram = append(u.scram, h)
		}
	})
	if err := p.err(); err != nil {
		return nil, err
	}
	u.secret = sha256.Sum256(text)
	return u, nil
}

// cutUser cuts a line into user name and hash.
func cutUser(line string) (name, hashText string, ok bool) {
	name, hashText, ok = strings.Cut(line, ":")
	return strings.Trim(name, blanks), strings.Trim(hashText, blanks), ok
}

// checkUsername reports what is wrong with a user name that is to stand in a file.
func checkUsername(name string) error {
	switch {
	case name == "":
		return errUserEmpty
	case len(name) > maxTopicBytes:
		return errUserLong
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errUserText
	}
	return nil
}
