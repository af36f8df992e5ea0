package httpbridge

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Token is a secret that gives a role to who presents it.
type Token struct {
	// Name is what the log calls its bearer.
	Name string
	Role Role
	// SHA256 is the hash of the secret, which has to have 128 random bits at least: a
	// hash that is fast is safe for those only.
	SHA256 [sha256.Size]byte
}

// NewToken returns a new secret, of 256 random bits, and the Token that knows it.
func NewToken(name string, role Role) (secret string, t Token) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // It never fails.
	secret = "loopmq_" + base64.RawURLEncoding.EncodeToString(random)
	return secret, Token{name, role, sha256.Sum256([]byte(secret))}
}

// String returns the line of a token file for it: NAME ROLE SHA256.
func (t Token) String() string { return fmt.Sprintf("%s %s %x", t.Name, t.Role, t.SHA256) }

// A token file has this many tokens at most, and this many bytes.
const (
	tokensMax         = 1000
	tokenFileBytesMax = 256 << 10
)

// ReadTokens reads a token file: a token a line, as Token.String writes it. Empty lines
// and those that begin with # say nothing. The error names all lines that are wrong.
func ReadTokens(path string) ([]Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tokens, err := parseTokens(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return tokens, nil
}

func parseTokens(r io.Reader) (tokens []Token, err error) {
	limited := &io.LimitedReader{R: r, N: tokenFileBytesMax + 1}
	lines := bufio.NewScanner(limited)
	var wrong []error
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		t, err := ParseToken(text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		tokens = append(tokens, t)
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case limited.N == 0 || len(tokens) > tokensMax:
		return nil, fmt.Errorf("is too long: allowed: %d tokens in %d bytes", tokensMax, tokenFileBytesMax)
	}
	return tokens, errors.Join(wrong...)
}

// ParseToken reads NAME ROLE SHA256. The error doesn't repeat what was read, since that
// may be a secret.
func ParseToken(line string) (t Token, err error) {
	words := strings.Fields(line)
	if len(words) != 3 {
		return t, fmt.Errorf("has %d words: allowed: NAME ROLE SHA256, as loopmq ctl token prints it", len(words))
	}
	t.Name = words[0]
	switch words[1] {
	case "read":
		t.Role = RoleRead
	case "write":
		t.Role = RoleWrite
	default:
		return t, errors.New("the role: allowed: read, write")
	}
	hash, err := hex.DecodeString(words[2])
	if err != nil || len(hash) != len(t.SHA256) {
		return t, errors.New("the hash: allowed: 64 hexadecimal digits")
	}
	t.SHA256 = [sha256.Size]byte(hash)
	return t, nil
}
