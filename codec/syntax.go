package codec

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// sharePrefix starts the Topic Filter of a Shared Subscription (section 4.8.2). 3.x Clients may use it, too.
const sharePrefix = "$share/"

// ValidUTF8String reports whether b is a UTF-8 Encoded String (section 1.5.4): well-formed UTF-8 without surrogates and U+0000
// [MQTT-1.5.4-1, MQTT-1.5.4-2], and not longer than 65,535 bytes. Control characters and non-characters are allowed.
func ValidUTF8String(b []byte) bool {
	if len(b) > maxStringSize {
		return false
	}
	i := 0
	for ; i+8 <= len(b); i += 8 {
		// A byte in 0x01..0x7F keeps its high bit clear when 1 is subtracted; every other byte sets a high bit here or there.
		if x := binary.LittleEndian.Uint64(b[i:]); (x|(x-ones))&highs != 0 {
			return bytes.IndexByte(b[i:], 0) < 0 && utf8.Valid(b[i:])
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c-1 >= 0x7F {
			return bytes.IndexByte(b[i:], 0) < 0 && utf8.Valid(b[i:])
		}
	}
	return true
}

// ValidTopicName reports whether b is a Topic Name: a UTF-8 Encoded String of at least one character without wildcards
// [MQTT-3.3.2-2, MQTT-4.7.3-1, MQTT-4.7.3-2, MQTT-4.7.3-3], and without control characters, which section 1.5.4 lets a
// receiver refuse.
func ValidTopicName(b []byte) bool { return len(b) > 0 && (plain(b) || topicNameError(b) == nil) }

// ValidTopicFilter reports whether b is a Topic Filter: a UTF-8 Encoded String of at least one character, without control
// characters, whose wildcards stand alone in their level, # only in the last one [MQTT-4.7.1-1, MQTT-4.7.1-2]; and if it is one
// of a Shared Subscription, whether it has a ShareName without wildcards and a Topic Filter [MQTT-4.8.2-1, MQTT-4.8.2-2].
func ValidTopicFilter(b []byte) bool { return topicFilterError(b) == nil }

// SplitShare splits the Topic Filter of a Shared Subscription, $share/{ShareName}/{filter}. For any other Topic Filter it
// returns the whole filter and shared == false. If shared, either part may be empty unless the filter is valid. Both are views
// of filter.
func SplitShare(filter []byte) (shareName, topicFilter []byte, shared bool) {
	if len(filter) < len(sharePrefix) || string(filter[:len(sharePrefix)]) != sharePrefix {
		return nil, filter, false
	}
	shareName, topicFilter, _ = bytes.Cut(filter[len(sharePrefix):], []byte{'/'})
	return shareName, topicFilter, true
}

// plain reports whether b has only ASCII characters in it that are neither control characters nor wildcards, so that nothing
// more has to be checked. It is the fast path for the strings of nearly every packet.
func plain(b []byte) bool {
	switch n := len(b); {
	case n > maxStringSize:
		return false
	case n >= 8:
		for i := 0; i < n-8; i += 8 {
			if !plainWord(binary.LittleEndian.Uint64(b[i:])) {
				return false
			}
		}
		return plainWord(binary.LittleEndian.Uint64(b[n-8:])) // overlaps the word before
	case n >= 4:
		return plainWord(uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint32(b[n-4:]))<<32)
	}
	for _, c := range b {
		if c-0x20 >= 0x7F-0x20 || c == '+' || c == '#' {
			return false
		}
	}
	return true
}

// plainWord is plain for eight bytes at once. Each term sets the high bit of a byte to be refused; borrows and carries between
// bytes can start only at such a byte, so the sum is zero exactly if there is none. The wildcards differ in one bit.
func plainWord(x uint64) bool {
	return (x| // not ASCII
		(x-0x20*ones)| // below U+0020
		(x+ones)| // U+007F
		(((x|('+'^'#')*ones)^'+'*ones)-ones))&highs == 0 // + and #
}

// nameError says why b can't be a Client Identifier, User Name, Topic Name or Topic Filter: what ValidUTF8String refuses, and
// control characters (U+0001..U+001F, U+007F..U+009F).
func nameError(b []byte) error {
	switch {
	case plain(b):
		return nil
	case !ValidUTF8String(b):
		return ErrInvalidUTF8
	case hasControl(b):
		return ErrControlCharacter
	}
	return nil
}

// hasControl reports whether b, which must be well-formed UTF-8, has a control character in it.
func hasControl(b []byte) bool {
	for i, c := range b {
		// U+0080..U+009F is 0xC2 followed by 0x80..0x9F; 0xC2 always has a byte behind it.
		if c < 0x20 || c == 0x7F || c == 0xC2 && b[i+1] < 0xA0 {
			return true
		}
	}
	return false
}

// topicNameError says why b isn't a Topic Name.
func topicNameError(b []byte) error {
	if len(b) == 0 {
		return ErrTopicNameEmpty
	}
	if err := nameError(b); err != nil {
		return err
	}
	if bytes.IndexByte(b, '+') >= 0 || bytes.IndexByte(b, '#') >= 0 {
		return ErrTopicNameWildcard
	}
	return nil
}

// topicFilterError says why b isn't a Topic Filter.
func topicFilterError(b []byte) error {
	if err := filterTextError(b); err != nil {
		return err
	}
	if !validWildcards(b) {
		return ErrTopicFilterWildcard
	}
	return nil
}

// filterTextError is topicFilterError but for the places of wildcards.
func filterTextError(b []byte) error {
	if len(b) == 0 {
		return ErrTopicFilterEmpty
	}
	if err := nameError(b); err != nil {
		return err
	}
	shareName, filter, shared := SplitShare(b)
	if shared && (len(shareName) == 0 || len(filter) == 0 || bytes.IndexByte(shareName, '+') >= 0 || bytes.IndexByte(shareName, '#') >= 0) {
		return ErrSharedSubscription
	}
	return nil
}

// validWildcards reports whether each wildcard is a whole level, and # the last one. A ShareName in front has none.
func validWildcards(filter []byte) bool {
	for i, c := range filter {
		if c != '+' && c != '#' {
			continue
		}
		if i > 0 && filter[i-1] != '/' {
			return false
		}
		if last := i == len(filter)-1; !last && (c == '#' || filter[i+1] != '/') {
			return false
		}
	}
	return true
}
