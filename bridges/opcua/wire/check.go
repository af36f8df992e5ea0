// Package wire has what the client and the server of OPC UA share: it looks at encoded messages before the library decodes them,
// and signs and encrypts chunks.
package wire

import (
	"encoding/binary"
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/gopcua/opcua/ua"
)

// ErrMalformed is returned for what can't be decoded without harm.
var ErrMalformed = errors.New("not a message of OPC UA")

const (
	// depthMax is how deep things may be within things. OPC 10000-6, 5.2.2.12 asks for 100.
	depthMax = 100
	// memoryFactor is how much memory a message may take when it is decoded, by the largest size of one.
	memoryFactor = 16
	// dimensionsMax is how many dimensions an array has at most: a decoded one has a Go type for each number of them, and
	// such types are never freed.
	dimensionsMax = 8
)

// Check goes over the bytes at the beginning of b as the library's decoder will when it makes a value of type t of them, without
// allocating. It returns how many bytes that are, or ErrMalformed. The decoder believes the lengths it reads, makes room for them
// before it looks at what follows, and goes as deep as it is told to. messageMax is the size in bytes of the largest message that
// is taken; decoded it may take 16 times that. Check is safe for concurrent use.
func Check(b []byte, t reflect.Type, messageMax int) (n int, err error) {
	k := &checker{b: b, memory: memoryFactor * messageMax}
	k.value(t)
	if k.bad {
		return 0, ErrMalformed
	}
	return len(b) - len(k.b), nil
}

type checker struct {
	b      []byte // what is left
	depth  int
	memory int // what is left
	bad    bool
}

func (k *checker) fail() { k.bad, k.b = true, nil }

// skip goes on behind n bytes, and returns them.
func (k *checker) skip(n int) []byte {
	if n < 0 || n > len(k.b) {
		k.fail()
		return nil
	}
	b := k.b[:n]
	k.b = k.b[n:]
	return b
}

func (k *checker) byte() byte {
	if b := k.skip(1); b != nil {
		return b[0]
	}
	return 0
}

func (k *checker) uint32() uint32 {
	if b := k.skip(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// text is a String, or a ByteString.
func (k *checker) text() []byte {
	n := k.uint32()
	if n == 0xffffffff || k.bad {
		return nil
	}
	k.take(int(n))
	return k.skip(int(n))
}

// take takes memory.
func (k *checker) take(n int) {
	if k.memory -= n; k.memory < 0 {
		k.fail()
	}
}

// list is how many elements follow.
func (k *checker) list(size int) int {
	n := k.uint32()
	if n == 0xffffffff || k.bad {
		return 0
	}
	// Each has a byte at least.
	if int64(n) > int64(len(k.b)) {
		k.fail()
		return 0
	}
	k.take(int(n) * size)
	return int(n)
}

var (
	timeType      = reflect.TypeFor[time.Time]()
	decoderType   = reflect.TypeFor[ua.BinaryDecoder]()
	pointerSize   = int(reflect.TypeFor[uintptr]().Size())
	interfaceSize = 2 * pointerSize
)

// value is one of a type.
func (k *checker) value(t reflect.Type) {
	if k.bad {
		return
	}
	if k.depth++; k.depth > depthMax {
		k.fail()
		return
	}
	defer func() { k.depth-- }()
	if t.Kind() == reflect.Pointer {
		k.take(int(t.Elem().Size()))
		if t.Implements(decoderType) {
			k.own(t)
			return
		}
		k.value(t.Elem())
		return
	}
	switch {
	case t == timeType:
		k.skip(8)
		return
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8, t.Kind() == reflect.String:
		k.text()
		return
	}
	switch t.Kind() {
	case reflect.Slice:
		for n := k.list(int(t.Elem().Size())); n > 0 && !k.bad; n-- {
			k.value(t.Elem())
		}
	case reflect.Struct:
		for i := range t.NumField() {
			k.value(t.Field(i).Type)
		}
	case reflect.Bool, reflect.Int8, reflect.Uint8, reflect.Int16, reflect.Uint16, reflect.Int32, reflect.Uint32, reflect.Int64, reflect.Uint64, reflect.Float32, reflect.Float64:
		k.skip(int(t.Size()))
	default: // there is none
		k.fail()
	}
}

// own is a type that decodes itself.
func (k *checker) own(t reflect.Type) {
	switch t {
	case reflect.TypeFor[*ua.NodeID]():
		k.nodeID()
	case reflect.TypeFor[*ua.ExpandedNodeID]():
		k.expandedNodeID()
	case reflect.TypeFor[*ua.GUID]():
		k.skip(16)
	case reflect.TypeFor[*ua.LocalizedText]():
		mask := k.byte()
		for bit := byte(1); bit <= 2; bit <<= 1 {
			if mask&bit != 0 {
				k.text()
			}
		}
	case reflect.TypeFor[*ua.DataValue]():
		k.dataValue()
	case reflect.TypeFor[*ua.Variant]():
		k.variant()
	case reflect.TypeFor[*ua.ExtensionObject]():
		k.extensionObject()
	case reflect.TypeFor[*ua.DiagnosticInfo]():
		k.diagnosticInfo()
	default: // there is none
		k.fail()
	}
}

func (k *checker) nodeID() (mask byte) {
	mask = k.byte()
	switch ua.NodeIDType(mask & 0xf) {
	case ua.NodeIDTypeTwoByte:
		k.skip(1)
	case ua.NodeIDTypeFourByte:
		k.skip(3)
	case ua.NodeIDTypeNumeric:
		k.skip(6)
	case ua.NodeIDTypeGUID:
		k.take(16)
		k.skip(18)
	case ua.NodeIDTypeString, ua.NodeIDTypeByteString:
		k.skip(2)
		k.text()
	default:
		k.fail()
	}
	return mask
}

func (k *checker) expandedNodeID() {
	k.take(int(reflect.TypeFor[ua.NodeID]().Size()))
	mask := k.nodeID()
	if mask&0x80 != 0 {
		k.text()
	}
	if mask&0x40 != 0 {
		k.skip(4)
	}
}

func (k *checker) dataValue() {
	k.take(int(reflect.TypeFor[ua.Variant]().Size()))
	mask := k.byte()
	if mask&ua.DataValueValue != 0 {
		k.nested(k.variant)
	}
	for _, part := range []struct {
		bit  byte
		size int
	}{
		{ua.DataValueStatusCode, 4}, {ua.DataValueSourceTimestamp, 8}, {ua.DataValueSourcePicoseconds, 2}, {ua.DataValueServerTimestamp, 8}, {ua.DataValueServerPicoseconds, 2},
	} {
		if mask&part.bit != 0 {
			k.skip(part.size)
		}
	}
}

// nested is something within something.
func (k *checker) nested(f func()) {
	if k.depth++; k.depth > depthMax {
		k.fail()
		return
	}
	f()
	k.depth--
}

func (k *checker) diagnosticInfo() {
	mask := k.byte()
	for _, bit := range []byte{ua.DiagnosticInfoSymbolicID, ua.DiagnosticInfoNamespaceURI, ua.DiagnosticInfoLocale, ua.DiagnosticInfoLocalizedText} {
		if mask&bit == bit {
			k.skip(4)
		}
	}
	if mask&ua.DiagnosticInfoAdditionalInfo != 0 {
		k.text()
	}
	if mask&ua.DiagnosticInfoInnerStatusCode != 0 {
		k.skip(4)
	}
	if mask&ua.DiagnosticInfoInnerDiagnosticInfo != 0 {
		k.take(int(reflect.TypeFor[ua.DiagnosticInfo]().Size()))
		k.nested(k.diagnosticInfo)
	}
}

func (k *checker) variant() {
	mask := k.byte()
	t := ua.TypeID(mask & 0x3f)
	if t == ua.TypeIDNull || k.bad {
		return
	}
	if t > ua.TypeIDDiagnosticInfo {
		k.fail()
		return
	}
	if mask&ua.VariantArrayValues == 0 {
		k.take(interfaceSize)
		k.scalar(t)
		return
	}
	n := k.list(interfaceSize)
	if n > ua.MaxVariantArrayLength {
		k.fail()
	}
	for i := 0; i < n && !k.bad; i++ {
		k.scalar(t)
	}
	if mask&ua.VariantArrayDimensions == 0 || k.bad {
		return
	}
	dimensions := k.uint32()
	if dimensions > dimensionsMax {
		k.fail()
		return
	}
	product := int64(1)
	for range dimensions {
		d := k.uint32()
		if product *= int64(d); d == 0 || product > int64(n) {
			k.fail()
			return
		}
	}
	if dimensions > 0 && product != int64(n) {
		k.fail()
	}
	k.take(int(dimensions) * n * 3 * pointerSize) // slices of slices
}

// builtins are the types of values that have parts.
var builtins = map[ua.TypeID]reflect.Type{
	ua.TypeIDGUID: reflect.TypeFor[*ua.GUID](), ua.TypeIDNodeID: reflect.TypeFor[*ua.NodeID](), ua.TypeIDExpandedNodeID: reflect.TypeFor[*ua.ExpandedNodeID](),
	ua.TypeIDQualifiedName: reflect.TypeFor[*ua.QualifiedName](), ua.TypeIDLocalizedText: reflect.TypeFor[*ua.LocalizedText](),
	ua.TypeIDExtensionObject: reflect.TypeFor[*ua.ExtensionObject](), ua.TypeIDDataValue: reflect.TypeFor[*ua.DataValue](),
	ua.TypeIDVariant: reflect.TypeFor[*ua.Variant](), ua.TypeIDDiagnosticInfo: reflect.TypeFor[*ua.DiagnosticInfo](),
}

// scalar is a value of a built-in type.
func (k *checker) scalar(t ua.TypeID) {
	switch t {
	case ua.TypeIDBoolean, ua.TypeIDSByte, ua.TypeIDByte:
		k.skip(1)
	case ua.TypeIDInt16, ua.TypeIDUint16:
		k.skip(2)
	case ua.TypeIDInt32, ua.TypeIDUint32, ua.TypeIDFloat, ua.TypeIDStatusCode:
		k.skip(4)
	case ua.TypeIDInt64, ua.TypeIDUint64, ua.TypeIDDouble, ua.TypeIDDateTime:
		k.take(8)
		k.skip(8)
	case ua.TypeIDString, ua.TypeIDByteString, ua.TypeIDXMLElement:
		k.take(3 * pointerSize)
		k.text()
	default:
		k.value(builtins[t])
	}
}

// structures are the types of structures that the library knows, by their ids, and nil for those that it doesn't.
var structures struct {
	sync.Mutex
	types map[uint32]reflect.Type
}

// structureOf returns the type that the library decodes a structure to; nil: none.
func structureOf(n *ua.NodeID) reflect.Type {
	if n.Namespace() != 0 || n.IntID() == 0 || n.IntID() > 0xffff {
		return nil // those of the standard are all there are
	}
	structures.Lock()
	defer structures.Unlock()
	t, known := structures.types[n.IntID()]
	if known {
		return t
	}
	// The library tells nobody what it knows, but it makes one before it fails for want of bytes.
	probe, err := ua.NewFourByteExpandedNodeID(0, uint16(n.IntID())).Encode()
	if err != nil {
		return nil
	}
	var o ua.ExtensionObject
	_, _ = o.Decode(append(probe, ua.ExtensionObjectBinary, 1, 0, 0, 0, 0))
	if o.Value != nil {
		t = reflect.TypeOf(o.Value)
	}
	if structures.types == nil {
		structures.types = make(map[uint32]reflect.Type)
	}
	structures.types[n.IntID()] = t
	return t
}

func (k *checker) extensionObject() {
	before := k.b
	k.expandedNodeID()
	if k.bad {
		return
	}
	var n ua.ExpandedNodeID
	if _, err := n.Decode(before[:len(before)-len(k.b)]); err != nil {
		k.fail()
		return
	}
	encoding := k.byte()
	if encoding == ua.ExtensionObjectEmpty || k.bad {
		return
	}
	length := k.uint32()
	if length == 0 || length == 0xffffffff || k.bad {
		return
	}
	body := k.skip(int(length))
	if k.bad {
		return
	}
	t := structureOf(n.NodeID)
	if encoding == ua.ExtensionObjectXML {
		t = reflect.TypeFor[*ua.XMLElement]()
	}
	if t == nil {
		return // it stays as it is
	}
	rest := k.b
	k.b = body
	k.value(t)
	if !k.bad {
		k.b = rest
	}
}
