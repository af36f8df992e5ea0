package wire

import (
	"encoding/binary"
	"errors"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

// ErrForged is returned for a chunk that isn't signed by who should have, or is encrypted for another key.
var ErrForged = errors.New("wrong signature, or wrong key")

// extraPadding is above which size of a key, in bytes, the size of the padding has two bytes. [OPC 10000-6, 6.7.2.5]
const extraPadding = 256

// Secure fills up, signs and encrypts a chunk, as far as mode says; at is where its sequence header begins, which is encrypted
// with all that follows. The size in the chunk's header becomes the right one. b is the caller's no more. [OPC 10000-6, 6.7.2]
func Secure(a *uapolicy.EncryptionAlgorithm, b []byte, at int, mode ua.MessageSecurityMode) ([]byte, error) {
	size := len(b)
	switch mode {
	case ua.MessageSecurityModeSign:
		size += a.SignatureLength()
	case ua.MessageSecurityModeSignAndEncrypt:
		fixed, block := 1, a.PlaintextBlockSize()
		if a.BlockSize() > extraPadding { // that of the peer's key
			fixed = 2
		}
		padding := (block - (len(b)-at+fixed+a.SignatureLength())%block) % block
		for range padding + 1 {
			b = append(b, byte(padding))
		}
		if fixed == 2 {
			b = append(b, byte(padding>>8))
		}
		size = at + (len(b)-at+a.SignatureLength())/block*a.BlockSize()
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(size))
	if mode == ua.MessageSecurityModeNone {
		return b, nil
	}
	signature, err := a.Signature(b)
	if err != nil {
		return nil, err
	}
	b = append(b, signature...)
	if mode == ua.MessageSecurityModeSign {
		return b, nil
	}
	secret, err := a.Encrypt(b[at:])
	return append(b[:at:at], secret...), err
}

// Unsecure is the opposite of Secure: it returns what is in a chunk from at on, or ErrForged. b stays as it is; what is returned
// is a part of b where nothing is encrypted.
func Unsecure(a *uapolicy.EncryptionAlgorithm, b []byte, at int, mode ua.MessageSecurityMode) ([]byte, error) {
	if mode == ua.MessageSecurityModeNone {
		return b[at:], nil
	}
	encrypted := mode == ua.MessageSecurityModeSignAndEncrypt
	if encrypted {
		plain, err := a.Decrypt(b[at:])
		if err != nil {
			return nil, ErrForged
		}
		b = append(b[:at:at], plain...)
	}
	end := len(b) - a.RemoteSignatureLength()
	if end < at || a.VerifySignature(b[:end], b[end:]) != nil {
		return nil, ErrForged
	}
	if b = b[at:end]; !encrypted {
		return b, nil
	}
	fixed := 1
	if a.SignatureLength() > extraPadding { // that of the own key
		fixed = 2
	}
	if len(b) < fixed {
		return nil, ErrForged
	}
	n := int(b[len(b)-fixed]) + fixed
	if fixed == 2 {
		n += int(b[len(b)-1]) << 8
	}
	if n > len(b) {
		return nil, ErrForged
	}
	return b[:len(b)-n], nil
}
