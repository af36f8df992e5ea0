package auth

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Scheme is a way to keep a password so that it can be checked but not read.
type Scheme string

// The schemes that loopmq makes. All can be checked against a password in a
// CONNECT; SCRAMSHA256 also by an enhanced authentication, in which the password
// doesn't travel. mosquitto reads PBKDF2.
const (
	Argon2id    Scheme = "argon2id"
	Bcrypt      Scheme = "bcrypt"
	PBKDF2      Scheme = "pbkdf2"
	SCRAMSHA256 Scheme = "scram-sha-256"
)

// Schemes are the schemes that HashPassword knows, the default first.
var Schemes = []Scheme{Argon2id, Bcrypt, PBKDF2, SCRAMSHA256}

// What new hashes cost: some 50 ms of a processor each, but SCRAM's, which the
// client pays for, however small it is.
const (
	newArgon2Memory     = 19 << 10 // KiB
	newArgon2Passes     = 2
	newBcryptCost       = 10
	newPBKDF2Iterations = 210_000
	newSCRAMIterations  = 15_000
	newSaltBytes        = 16
	newMosquittoSalt    = 12 // mosquitto before 2.1 takes no other
)

// What a hash in a file may cost: a few seconds at most, and a quarter of a
// gigabyte. More is a mistake, or meant to keep the broker busy.
const (
	maxArgon2Memory     = 256 << 10 // KiB
	maxArgon2Passes     = 16
	maxArgon2Threads    = 16
	minBcryptCost       = bcrypt.MinCost
	maxBcryptCost       = 15
	maxPBKDF2Iterations = 5_000_000
	minSCRAMIterations  = 4096 // RFC 7677
	maxSCRAMIterations  = 5_000_000
	minSaltBytes        = 8
	maxSaltBytes        = 64
)

// What is wrong with a password.
var (
	errPasswordEmpty  = errors.New("the password is empty")
	errPasswordLong   = errors.New("the password is longer than the 65535 bytes that a CONNECT can hold [MQTT-1.5.6-1]")
	errPasswordBcrypt = errors.New("the password is longer than the 72 bytes that bcrypt looks at: choose another scheme")
	errPasswordSCRAM  = errors.New("the password has characters that SCRAM does not allow (RFC 4013)")
)

// HashPassword returns a password in the form in which a password file keeps it.
func HashPassword(s Scheme, password string) (string, error) {
	switch {
	case password == "":
		return "", errPasswordEmpty
	case len(password) > maxTopicBytes:
		return "", errPasswordLong
	}
	salt := make([]byte, newSaltBytes)
	_, _ = rand.Read(salt) // it doesn't fail
	switch s {
	case Argon2id:
		h := argon2Hash{memory: newArgon2Memory, passes: newArgon2Passes, threads: 1, salt: salt, key: make([]byte, 32)}
		h.key = h.derive([]byte(password))
		return h.String(), nil
	case Bcrypt:
		text, err := bcrypt.GenerateFromPassword([]byte(password), newBcryptCost)
		if err != nil {
			return "", errPasswordBcrypt
		}
		return string(text), nil
	case PBKDF2:
		h := pbkdf2Hash{iterations: newPBKDF2Iterations, salt: salt[:newMosquittoSalt]}
		h.key = h.derive([]byte(password))
		return h.String(), nil
	case SCRAMSHA256:
		c, err := scram.SHA256.NewClient("", password, "")
		if err != nil {
			return "", errPasswordSCRAM
		}
		stored, err := c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: newSCRAMIterations})
		if err != nil {
			return "", errPasswordSCRAM
		}
		return scramHash(stored).String(), nil
	}
	return "", fmt.Errorf("scheme %q: allowed: %s", s, joinSchemes())
}

func joinSchemes() string {
	var names []string
	for _, s := range Schemes {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

// hash is a password as a file keeps it. It doesn't change.
type hash interface {
	// matches reports whether this is the password. It takes its time, the same for
	// each password.
	matches(password []byte) bool
}

// What is wrong with a hash in a file. None says what stands there.
var (
	errHashUnknown = errors.New("not a hash that is known: allowed: $argon2id$, $2a$, $2b$, $2y$ (bcrypt), $6$ and $7$ (mosquitto_passwd), " +
		"$scram-sha-256$; loopmq passwd makes them")
	errHashForm = errors.New("the hash is incomplete, or has characters that do not belong there")
)

// parseHash reads a hash.
func parseHash(text string) (hash, error) {
	if !strings.HasPrefix(text, "$") {
		return nil, errHashUnknown
	}
	fields := strings.Split(text, "$")[1:]
	switch scheme, fields := fields[0], fields[1:]; scheme {
	case "2a", "2b", "2y":
		return parseBcrypt(text)
	case "argon2id":
		return parseArgon2(fields)
	case "6":
		if len(fields) != 2 {
			return nil, errHashForm
		}
		salt, key, err := saltAndKey(base64.StdEncoding, fields[0], fields[1], sha512.Size)
		return sha512Hash{salt, key}, err
	case "7":
		return parsePBKDF2(fields)
	case string(SCRAMSHA256):
		return parseSCRAM(fields)
	}
	return nil, errHashUnknown
}

// saltAndKey decodes the two last fields that most schemes have.
func saltAndKey(e *base64.Encoding, saltText, keyText string, keyBytes int) (salt, key []byte, err error) {
	salt, err = e.Strict().DecodeString(saltText)
	key, err2 := e.Strict().DecodeString(keyText)
	if err != nil || err2 != nil || len(key) != keyBytes {
		return nil, nil, errHashForm
	}
	if len(salt) < minSaltBytes || len(salt) > maxSaltBytes {
		return nil, nil, fmt.Errorf("salt of %d bytes: allowed: %d to %d", len(salt), minSaltBytes, maxSaltBytes)
	}
	return salt, key, nil
}

// number reads a parameter within its bounds. What isn't one is not told: it may be
// part of a hash.
func number(what, text string, low, high int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: allowed: a number from %d to %d", what, low, high)
	}
	if n < low || n > high {
		return 0, fmt.Errorf("%s %d: allowed: %d to %d", what, n, low, high)
	}
	return n, nil
}

// equal compares in constant time.
func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// bcryptHash is $2b$10$ and 53 characters of salt and hash.
type bcryptHash []byte

const bcryptLength = 60

func parseBcrypt(text string) (hash, error) {
	if len(text) != bcryptLength || text[6] != '$' ||
		strings.Trim(text[7:], "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") != "" {
		return nil, errHashForm
	}
	_, err := number("bcrypt cost", text[4:6], minBcryptCost, maxBcryptCost)
	return bcryptHash(text), err
}

func (h bcryptHash) matches(password []byte) bool {
	return bcrypt.CompareHashAndPassword(h, password) == nil
}

// argon2Hash is $argon2id$v=19$m=…,t=…,p=…$salt$key, in base64 without padding.
type argon2Hash struct {
	memory, passes, threads int // memory in KiB
	salt, key               []byte
}

func parseArgon2(fields []string) (hash, error) {
	if len(fields) != 4 || fields[0] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("%w: argon2id: allowed: version %d", errHashForm, argon2.Version)
	}
	h := argon2Hash{}
	costs := strings.Split(fields[1], ",")
	if len(costs) != 3 {
		return nil, errHashForm
	}
	for i, c := range []struct {
		to        *int
		name      string
		low, high int
	}{
		{&h.memory, "m=", 8, maxArgon2Memory},
		{&h.passes, "t=", 1, maxArgon2Passes},
		{&h.threads, "p=", 1, maxArgon2Threads},
	} {
		text, ok := strings.CutPrefix(costs[i], c.name)
		if !ok {
			return nil, errHashForm
		}
		var err error
		if *c.to, err = number("argon2id "+c.name[:1], text, c.low, c.high); err != nil {
			return nil, err
		}
	}
	key := base64.RawStdEncoding.DecodedLen(len(fields[3]))
	if key < 16 || key > 64 {
		return nil, fmt.Errorf("argon2id hash of %d bytes: allowed: 16 to 64", key)
	}
	var err error
	h.salt, h.key, err = saltAndKey(base64.RawStdEncoding, fields[2], fields[3], key)
	return h, err
}

func (h argon2Hash) derive(password []byte) []byte {
	return argon2.IDKey(password, h.salt, uint32(h.passes), uint32(h.memory), uint8(h.threads), uint32(len(h.key)))
}

func (h argon2Hash) matches(password []byte) bool { return equal(h.derive(password), h.key) }

func (h argon2Hash) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.passes, h.threads,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.key))
}

// sha512Hash is $6$salt$key of old versions of mosquitto_passwd: one SHA-512 of
// password and salt.
type sha512Hash struct{ salt, key []byte }

func (h sha512Hash) matches(password []byte) bool {
	d := sha512.New()
	d.Write(password)
	d.Write(h.salt)
	return equal(d.Sum(nil), h.key)
}

// pbkdf2Hash is $7$iterations$salt$key of mosquitto_passwd: PBKDF2 with SHA-512.
type pbkdf2Hash struct {
	iterations int
	salt, key  []byte
}

func parsePBKDF2(fields []string) (hash, error) {
	if len(fields) != 3 {
		return nil, errHashForm
	}
	n, err := number("PBKDF2 iterations", fields[0], 1, maxPBKDF2Iterations)
	if err != nil {
		return nil, err
	}
	salt, key, err := saltAndKey(base64.StdEncoding, fields[1], fields[2], sha512.Size)
	return pbkdf2Hash{n, salt, key}, err
}

func (h pbkdf2Hash) derive(password []byte) []byte {
	key, err := pbkdf2.Key(sha512.New, string(password), h.salt, h.iterations, sha512.Size)
	if err != nil {
		return nil // a mode of the Go runtime doesn't allow it; what is nil matches nothing
	}
	return key
}

func (h pbkdf2Hash) matches(password []byte) bool { return equal(h.derive(password), h.key) }

func (h pbkdf2Hash) String() string {
	return fmt.Sprintf("$7$%d$%s$%s", h.iterations, base64.StdEncoding.EncodeToString(h.salt), base64.StdEncoding.EncodeToString(h.key))
}

// scramHash is $scram-sha-256$iterations$salt$StoredKey$ServerKey, as of RFC 5802.
type scramHash scram.StoredCredentials

func parseSCRAM(fields []string) (hash, error) {
	if len(fields) != 4 {
		return nil, errHashForm
	}
	n, err := number("SCRAM iterations", fields[0], minSCRAMIterations, maxSCRAMIterations)
	if err != nil {
		return nil, err
	}
	salt, storedKey, err := saltAndKey(base64.StdEncoding, fields[1], fields[2], sha256.Size)
	if err != nil {
		return nil, err
	}
	_, serverKey, err := saltAndKey(base64.StdEncoding, fields[1], fields[3], sha256.Size)
	return scramHash{KeyFactors: scram.KeyFactors{Salt: string(salt), Iters: n}, StoredKey: storedKey, ServerKey: serverKey}, err
}

// matches checks a password that a CONNECT brought, as if the client had derived
// the keys of it.
func (h scramHash) matches(password []byte) bool {
	c, err := scram.SHA256.NewClient("", string(password), "")
	if err != nil {
		return false
	}
	got, err := c.GetStoredCredentialsWithError(h.KeyFactors)
	return err == nil && equal(got.StoredKey, h.StoredKey)
}

func (h scramHash) String() string {
	e := base64.StdEncoding
	return fmt.Sprintf("$%s$%d$%s$%s$%s", SCRAMSHA256, h.Iters, e.EncodeToString([]byte(h.Salt)), e.EncodeToString(h.StoredKey), e.EncodeToString(h.ServerKey))
}
