package coapbridge

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// KeyFile is a file of PSK identities and their keys: lines of identity:key, the key as
// hexadecimal digits, as mosquitto's psk_file; # begins a comment. Its methods are safe
// for concurrent use.
type KeyFile struct {
	path string
	keys atomic.Pointer[map[string][]byte]
}

// The bounds of a line of a KeyFile. [RFC 4279, 5.3]
const (
	identityMax = 128
	keyMin      = 8
	keyMax      = 64
)

// OpenKeyFile reads a file of keys. The error names the line that is wrong.
func OpenKeyFile(path string) (*KeyFile, error) {
	f := &KeyFile{path: path}
	apply, err := f.Prepare()
	if err != nil {
		return nil, err
	}
	apply()
	return f, nil
}

// Key returns the key of an identity, nil if there is none.
func (f *KeyFile) Key(identity string) []byte { return (*f.keys.Load())[identity] }

// Prepare reads the file again, and returns what makes it hold.
func (f *KeyFile) Prepare() (apply func(), err error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return func() { f.keys.Store(&keys) }, nil
}

func parseKeys(text []byte) (map[string][]byte, error) {
	keys := make(map[string][]byte)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ':')
		if at < 1 || at > identityMax || !utf8.ValidString(line) {
			return nil, fmt.Errorf("line %d: allowed: identity:key, with an identity of 1 to %d bytes of UTF-8", n, identityMax)
		}
		identity := line[:at]
		key, err := hex.DecodeString(line[at+1:])
		if err != nil || len(key) < keyMin || len(key) > keyMax { // the key isn't shown
			return nil, fmt.Errorf("line %d: the key of %q: allowed: %d to %d hexadecimal digits", n, identity, 2*keyMin, 2*keyMax)
		}
		if keys[identity] != nil {
			return nil, fmt.Errorf("line %d: %q comes twice", n, identity)
		}
		keys[identity] = key
	}
	return keys, lines.Err()
}
