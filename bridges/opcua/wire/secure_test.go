package wire

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

func mustKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What one end secures the other one reads, and nobody can change it.
func TestSecured(t *testing.T) {
	t.Parallel()
	short, long := mustKey(t, 2048), mustKey(t, 3072)
	nonces := [2][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)}
	for _, uri := range []string{ua.SecurityPolicyURIBasic256Sha256, ua.SecurityPolicyURIAes128Sha256RsaOaep, ua.SecurityPolicyURIAes256Sha256RsaPss} {
		type end struct{ from, to *uapolicy.EncryptionAlgorithm }
		var ends []end
		for _, keys := range [][2]*rsa.PrivateKey{{short, short}, {short, long}, {long, short}} {
			from, err := uapolicy.Asymmetric(uri, keys[0], &keys[1].PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			to, err := uapolicy.Asymmetric(uri, keys[1], &keys[0].PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			ends = append(ends, end{from, to})
		}
		from, err := uapolicy.Symmetric(uri, nonces[0], nonces[1])
		if err != nil {
			t.Fatal(err)
		}
		to, err := uapolicy.Symmetric(uri, nonces[1], nonces[0])
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end{from, to})
		for i, e := range ends {
			for _, size := range []int{0, 1, 15, 16, 200, 500} {
				mode := ua.MessageSecurityModeSignAndEncrypt
				if size%2 == 1 && i == len(ends)-1 { // the opening of a channel is always encrypted
					mode = ua.MessageSecurityModeSign
				}
				body := bytes.Repeat([]byte{7}, size)
				const header = 24
				b, err := Secure(e.from, append(make([]byte, header), body...), header, mode)
				if err != nil || int(binary.LittleEndian.Uint32(b[4:])) != len(b) {
					t.Fatalf("%s, keys %d, %d bytes: %v, and a size of %d in %d", uri, i, size, err, binary.LittleEndian.Uint32(b[4:]), len(b))
				}
				got, err := Unsecure(e.to, b, header, mode)
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("%s, keys %d, %d bytes: %v (%v)", uri, i, size, got, err)
				}
				if size > 1 {
					continue
				}
				for at := 0; at < len(b); at += 61 {
					forged := bytes.Clone(b)
					forged[at] ^= 1
					if _, err := Unsecure(e.to, forged, header, mode); !errors.Is(err, ErrForged) {
						t.Fatalf("%s, keys %d, mode %d: byte %d can be changed", uri, i, mode, at)
					}
				}
			}
		}
	}
}

// Chunks that are shorter than what belongs to them are refused.
func TestShortChunks(t *testing.T) {
	t.Parallel()
	nonces := [2][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)}
	from, err := uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, nonces[0], nonces[1])
	if err != nil {
		t.Fatal(err)
	}
	to, err := uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, nonces[1], nonces[0])
	if err != nil {
		t.Fatal(err)
	}
	const header = 16
	for _, mode := range []ua.MessageSecurityMode{ua.MessageSecurityModeSign, ua.MessageSecurityModeSignAndEncrypt} {
		b, err := Secure(from, make([]byte, header+8), header, mode)
		if err != nil {
			t.Fatal(err)
		}
		for n := header; n < len(b); n++ {
			if _, err := Unsecure(to, b[:n], header, mode); !errors.Is(err, ErrForged) {
				t.Fatalf("mode %d: %d bytes of %d: %v", mode, n, len(b), err)
			}
		}
	}
}
