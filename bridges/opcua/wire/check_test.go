package wire

import (
	"encoding/binary"
	"reflect"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
)

// What the codec reads, Check goes over in the same steps.
func TestCheckAgreesWithTheCodec(t *testing.T) {
	all := []any{
		true, int8(1), byte(1), int16(1), uint16(1), int32(1), uint32(1), int64(1), uint64(1), float32(1), 1.0, "text", time.Now(), ua.NewGUID("72962b91-fa75-4ae6-8d28-b404dc7daf63"),
		[]byte("bytes"), ua.XMLElement("<x/>"), ua.NewTwoByteNodeID(1), ua.NewFourByteNodeID(1, 2), ua.NewNumericNodeID(1, 1<<20), ua.NewStringNodeID(1, "s"),
		ua.NewByteStringNodeID(1, []byte("b")), ua.NewGUIDNodeID(1, "72962b91-fa75-4ae6-8d28-b404dc7daf63"), ua.NewExpandedNodeID(ua.NewStringNodeID(0, "x"), "urn:x", 7),
		ua.StatusBad, &ua.QualifiedName{NamespaceIndex: 1, Name: "q"}, ua.NewLocalizedTextWithLocale("text", "en"), ua.NewExtensionObject(&ua.DataChangeFilter{}),
		&ua.DataValue{EncodingMask: 0x3f, Value: ua.MustVariant(1.0)}, ua.MustVariant(int32(7)), &ua.DiagnosticInfo{EncodingMask: 0x7f, AdditionalInfo: "x", InnerDiagnosticInfo: &ua.DiagnosticInfo{}},
		[]string{"a", "", "c"},
		[]float64{},
		[]float64{1, 2},
		[][]int32{{1, 2}, {3, 4}},
		ua.ByteArray{1, 2},
		[]*ua.Variant{ua.MustVariant(1.0), ua.MustVariant("x")},
	}
	for _, v := range all {
		b, err := ua.Encode(&ua.DataValue{EncodingMask: 1, Value: ua.MustVariant(v)})
		if err != nil {
			t.Fatalf("%T: %v", v, err)
		}
		n, err := Check(append(append([]byte(nil), b...), 1, 2, 3), reflect.TypeFor[*ua.DataValue](), 1<<16)
		if err != nil || n != len(b) {
			t.Errorf("%T %v: %d bytes of %d, %v", v, v, n, len(b), err)
		}
		for short := range b {
			if _, err := Check(append([]byte(nil), b[:short]...), reflect.TypeFor[*ua.DataValue](), 1<<16); err == nil {
				t.Errorf("%T: %d bytes of %d are enough", v, short, len(b))
				break
			}
		}
	}
}

// The codec leaves structures that it doesn't know as they are, so whatever is in them does no harm.
func TestUnknownStructuresAreSkipped(t *testing.T) {
	for _, encoding := range [][]byte{{0, 255}, {2, 0, 0, 1, 2, 3, 4}, {3, 0, 0, 1, 0, 0, 0, 'x'}, {0x81, 0, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff}} {
		b := append(append([]byte(nil), encoding...), 1, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f)
		if n, err := Check(b, reflect.TypeFor[*ua.ExtensionObject](), 1<<16); err != nil || n != len(b) {
			t.Fatalf("%x: %d, %v", encoding, n, err)
		}
		e := &ua.ExtensionObject{}
		if _, err := e.Decode(b); err != nil || e.Value != nil {
			t.Errorf("%x: %+v, %v", encoding, e.Value, err)
		}
	}
}

func TestHarmIsRefused(t *testing.T) {
	lists := func(depth int) []byte { // of Variants, one in the other
		var b []byte
		for range depth {
			b = append(b, 0x80|byte(ua.TypeIDVariant), 1, 0, 0, 0)
		}
		return append(b, byte(ua.TypeIDBoolean), 1)
	}
	array := func(n uint32, more ...uint32) []byte {
		mask := byte(0x80 | ua.TypeIDByte)
		if more != nil {
			mask |= 0x40
		}
		b := binary.LittleEndian.AppendUint32([]byte{mask}, n)
		b = append(b, make([]byte, min(n, 1<<16))...)
		for _, m := range more {
			b = binary.LittleEndian.AppendUint32(b, m)
		}
		return b
	}
	dataChangeFilter := []byte{1, 0, 0xd4, 0x02, 1, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f}
	for _, c := range []struct {
		name string
		b    []byte
		to   reflect.Type
		fine bool
	}{
		{"some depth", lists(20), reflect.TypeFor[*ua.Variant](), true},
		{"too deep", lists(200), reflect.TypeFor[*ua.Variant](), false},
		{"a list", array(1000), reflect.TypeFor[*ua.Variant](), true},
		{"a list longer than the message", array(1 << 30), reflect.TypeFor[*ua.Variant](), false},
		{"more memory than it may take", array(1 << 16), reflect.TypeFor[*ua.Variant](), false},
		{"dimensions", array(6, 2, 2, 3), reflect.TypeFor[*ua.Variant](), true},
		{"wrong dimensions", array(6, 2, 2, 4), reflect.TypeFor[*ua.Variant](), false},
		{"an empty dimension", array(6, 2, 0, 6), reflect.TypeFor[*ua.Variant](), false},
		{"many dimensions", array(1, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1), reflect.TypeFor[*ua.Variant](), false},
		{"a known structure with another's bytes", dataChangeFilter, reflect.TypeFor[*ua.ExtensionObject](), false},
		{"an id of no kind", []byte{9, 0, 0, 0, 0}, reflect.TypeFor[*ua.NodeID](), false},
		{"a value of no type", []byte{63, 0}, reflect.TypeFor[*ua.Variant](), false},
	} {
		if n, err := Check(c.b, c.to, 1<<14); (err == nil) != c.fine || c.fine && n != len(c.b) {
			t.Errorf("%s: %d of %d bytes, %v", c.name, n, len(c.b), err)
		}
	}
}
