package codec

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

var utf8Cases = []struct {
	text    string
	valid   bool
	control bool
}{
	{"", true, false},
	{"a", true, false},
	{"12345678", true, false},
	{"123456789", true, false},
	{"é", true, false},
	{"A\U0002A6D4", true, false},
	{"\ufeff", true, false},        // [MQTT-1.5.4-3]
	{"\ufdd0\uffff", true, false},  // non-characters
	{"\u00a0", true, false},        // the first after the C1 controls
	{"1234567\u00a0", true, false}, // starts in one word and ends in the next
	{"\U0010ffff", true, false},    // the last code point
	{"\xe1\x80\x80\xc2\xa0", true, false},
	{"a\x01", true, true},
	{"\x1f", true, true},
	{"\x7f", true, true},
	{"\u0080", true, true},
	{"\u009f", true, true},
	{"12345678\n", true, true},
	{"1234\t5678", true, true},
	{"\x00", false, false},
	{"1234567\x00", false, false},
	{"12345678\x00", false, false},
	{"é\x00", false, false},
	{"\xed\xa0\x80", false, false},     // U+D800
	{"\xed\xbf\xbf", false, false},     // U+DFFF
	{"\xc0\x80", false, false},         // overlong U+0000
	{"\xc0\xaf", false, false},         // overlong /
	{"\xe0\x80\xaf", false, false},     // overlong /
	{"\xf0\x80\x80\xaf", false, false}, // overlong /
	{"\xf4\x90\x80\x80", false, false}, // beyond U+10FFFF
	{"\xf8\x88\x80\x80\x80", false, false},
	{"\x80", false, false},
	{"1234567\x80", false, false},
	{"\xc3", false, false},
	{"12345678\xe2\x82", false, false},
	{"\xff", false, false},
}

func TestValidUTF8String(t *testing.T) {
	for _, c := range utf8Cases {
		for _, around := range []string{"", "x", "xxxxxxx", "xxxxxxxx", "xxxxxxxxxxxxxxxxxxx"} {
			for _, text := range []string{around + c.text, c.text + around, around + c.text + around} {
				if got := ValidUTF8String(b(text)); got != c.valid {
					t.Errorf("ValidUTF8String(%q): got %t, want %t", text, got, c.valid)
				}
				name := c.valid && !c.control && text != ""
				if got := ValidTopicName(b(text)); got != name {
					t.Errorf("ValidTopicName(%q): got %t, want %t", text, got, name)
				}
				if got := ValidTopicFilter(b(text)); got != name {
					t.Errorf("ValidTopicFilter(%q): got %t, want %t", text, got, name)
				}
			}
		}
	}
}

func TestSyntaxLength(t *testing.T) {
	for _, c := range []struct {
		size int
		want bool
	}{{65_535, true}, {65_536, false}} {
		text := bytes.Repeat(b("a"), c.size)
		if ValidUTF8String(text) != c.want || ValidTopicName(text) != c.want || ValidTopicFilter(text) != c.want {
			t.Errorf("%d bytes: want %t from all", c.size, c.want)
		}
	}
}

func TestValidTopicName(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, "/": true, "//": true, " ": true, "a b": true, "$SYS/broker": true, "a": true, "~": true, " a/b c/~": true,
		"+": false, "#": false, "a/+": false, "a/#/b": false, "abc+": false, "abcd#": false, "1234567+": false, "12345678#": false,
		"123456789012345+": false, "+1234567": false, "é+": false, "12345678é/#": false, "\"$%&'()*,-./": true, "*": true, "[;": true,
	} {
		if got := ValidTopicName(b(name)); got != want {
			t.Errorf("ValidTopicName(%q): got %t, want %t", name, got, want)
		}
	}
}

func TestValidTopicFilter(t *testing.T) {
	for filter, want := range map[string]bool{
		"": false, "#": true, "+": true, "/": true, "a/#": true, "/#": true, "+/+": true, "/+": true, "+/": true, "a/+/b/#": true,
		"#/": false, "a#": false, "a/#/b": false, "##": false, "#+": false, "+#": false, "a+": false, "+a": false, "a/+b": false,
		"a/b+/c": false, "++": false, "é/#": true, "é#": false, "+/é": true,
		"$share/g/a": true, "$share/g/#": true, "$share/g/+/a": true, "$share/g//": true, "$share/é/a": true, "$share/g//a": true,
		"$share/g": false, "$share/g/": false, "$share//a": false, "$share/": false, "$share/+/a": false, "$share/g#/a": false,
		"$share/g/a#": false, "$share/g/#/a": false, "$share": true, "$shared/g": true, "$SHARE/": true, "x$share/": true,
		"$share/#": false,
	} {
		if got := ValidTopicFilter(b(filter)); got != want {
			t.Errorf("ValidTopicFilter(%q): got %t, want %t", filter, got, want)
		}
	}
}

func TestSplitShare(t *testing.T) {
	for filter, want := range map[string]struct {
		name, filter string
		shared       bool
	}{
		"a/b":              {"", "a/b", false},
		"$share":           {"", "$share", false},
		"$share/g/a/b":     {"g", "a/b", true},
		"$share/g//a":      {"g", "/a", true},
		"$share/g":         {"g", "", true},
		"$share/":          {"", "", true},
		"$share//a":        {"", "a", true},
		"$shares/g/a":      {"", "$shares/g/a", false},
		"$share/g/$share/": {"g", "$share/", true},
	} {
		name, rest, shared := SplitShare(b(filter))
		if string(name) != want.name || string(rest) != want.filter || shared != want.shared {
			t.Errorf("SplitShare(%q): got %q, %q, %t", filter, name, rest, shared)
		}
	}
}

// naiveName says the same as the word-wise code, rune by rune.
func naiveName(text []byte) (str, name bool) {
	str, name = utf8.Valid(text), len(text) > 0
	for _, r := range string(text) {
		str = str && r != 0
		name = name && r >= 0x20 && (r < 0x7F || r > 0x9F) && r != '+' && r != '#'
	}
	return str, str && name
}

func FuzzSyntax(f *testing.F) {
	for _, c := range utf8Cases {
		f.Add(b(c.text))
	}
	f.Add(b("$share/g/a/+/#"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > maxStringSize {
			return
		}
		str, name := naiveName(text)
		if got := ValidUTF8String(text); got != str {
			t.Errorf("ValidUTF8String(%q): got %t", text, got)
		}
		if got := ValidTopicName(text); got != name {
			t.Errorf("ValidTopicName(%q): got %t", text, got)
		}
		if name && !ValidTopicFilter(text) && !strings.HasPrefix(string(text), "$share/") {
			t.Errorf("Topic Name %q is no Topic Filter", text)
		}
		if shareName, filter, shared := SplitShare(text); shared && ValidTopicFilter(text) && (len(shareName) == 0 || !validWildcards(filter) || len(filter) == 0) {
			t.Errorf("Shared Subscription %q is valid", text)
		}
	})
}

// TestSyntaxRandom compares the word-wise code with the naive one, with the bytes that matter at every offset.
func TestSyntaxRandom(t *testing.T) {
	const seed = 20
	rng := rand.New(rand.NewPCG(seed, seed))
	alphabet := []string{"a", "/", " ", "~", "\x00", "\x01", "\x1f", "\x20", "\x7f", "+", "#", "*", ",", "\"", "$", "\u0080", "\u00a0", "é", "\xc2", "\x80", "€"}
	for range 200_000 {
		var text []byte
		for range rng.IntN(24) {
			if rng.IntN(6) > 0 {
				text = append(text, byte('a'+rng.IntN(26)))
			} else {
				text = append(text, alphabet[rng.IntN(len(alphabet))]...)
			}
		}
		str, name := naiveName(text)
		if ValidUTF8String(text) != str || ValidTopicName(text) != name {
			t.Fatalf("%q (seed %d): ValidUTF8String %t, want %t; ValidTopicName %t, want %t", text, seed, ValidUTF8String(text), str, ValidTopicName(text), name)
		}
	}
}
