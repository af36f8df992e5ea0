package opcuaserver

import (
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// checkDepth bounds how deep values are nested. OPC 10000-6, 5.2.2.12 asks for 100.
const checkDepth = 100

// dimensionsMax bounds the dimensions of an array.
const dimensionsMax = 8

var errMalformed = errors.New("not a message of OPC UA")

// bodies are the structures that may come inside of others. All else that does is skipped.
var bodies = map[uint32]reflect.Type{
	id.AnonymousIdentityToken_Encoding_DefaultBinary: reflect.TypeFor[ua.AnonymousIdentityToken](),
	id.UserNameIdentityToken_Encoding_DefaultBinary:  reflect.TypeFor[ua.UserNameIdentityToken](),
	id.X509IdentityToken_Encoding_DefaultBinary:      reflect.TypeFor[ua.X509IdentityToken](),
	id.DataChangeFilter_Encoding_DefaultBinary:       reflect.TypeFor[ua.DataChangeFilter](),
}

var (
	typeTime            = reflect.TypeFor[time.Time]()
	typeNodeID          = reflect.TypeFor[ua.NodeID]()
	typeExpandedNodeID  = reflect.TypeFor[ua.ExpandedNodeID]()
	typeVariant         = reflect.TypeFor[ua.Variant]()
	typeDataValue       = reflect.TypeFor[ua.DataValue]()
	typeExtensionObject = reflect.TypeFor[ua.ExtensionObject]()
	typeDiagnosticInfo  = reflect.TypeFor[ua.DiagnosticInfo]()
	typeLocalizedText   = reflect.TypeFor[ua.LocalizedText]()
	typeGUID            = reflect.TypeFor[ua.GUID]()
)

// check walks over the bytes of a structure as the codec will, which makes room for what a length claims, and descends as
// deep as values are nested. It returns how many bytes the structure has, or errMalformed. Structures that aren't in bodies
// lose their type, so that the codec skips them: b is changed.
func check(b []byte, t reflect.Type) (int, error) {
	c := checker{b: b}
	c.value(t, 0)
	if c.failed {
		return 0, errMalformed
	}
	return c.at, nil
}

type checker struct {
	b      []byte
	at     int
	failed bool
}

// take goes over n bytes, and returns them.
func (c *checker) take(n int) []byte {
	if c.failed || n < 0 || n > len(c.b)-c.at {
		c.failed = true
		return nil
	}
	b := c.b[c.at : c.at+n]
	c.at += n
	return b
}

func (c *checker) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *checker) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// count is the length of a list whose elements have a byte at least; -1 means that there is none.
func (c *checker) count() int {
	n := c.uint32()
	if n == math.MaxUint32 || c.failed {
		return 0
	}
	if int64(n) > int64(len(c.b)-c.at) {
		c.failed = true
		return 0
	}
	return int(n)
}

func (c *checker) bytes() { c.take(c.count()) }

func (c *checker) value(t reflect.Type, depth int) {
	if c.failed || depth > checkDepth {
		c.failed = true
		return
	}
	switch t {
	case typeTime:
		c.take(8)
		return
	case typeNodeID:
		c.nodeID()
		return
	case typeExpandedNodeID:
		c.expandedNodeID()
		return
	case typeVariant:
		c.variant(depth)
		return
	case typeDataValue:
		c.dataValue(depth)
		return
	case typeExtensionObject:
		c.extensionObject(depth)
		return
	case typeDiagnosticInfo:
		c.diagnosticInfo(depth)
		return
	case typeLocalizedText:
		c.localizedText()
		return
	case typeGUID:
		c.take(16)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		c.value(t.Elem(), depth)
	case reflect.Struct:
		for i := range t.NumField() {
			c.value(t.Field(i).Type, depth+1)
		}
	case reflect.Slice:
		n := c.count()
		if t.Elem().Kind() == reflect.Uint8 {
			c.take(n)
			return
		}
		for range n {
			if c.failed {
				return
			}
			c.value(t.Elem(), depth+1)
		}
	case reflect.String:
		c.bytes()
	default: // a number: bool, int8 to uint64, float32, float64
		c.take(int(t.Size()))
	}
}

// nodeID returns the type of the id.
func (c *checker) nodeID() {
	switch c.byte() & 0x0f {
	case 0: // two bytes
		c.take(1)
	case 1: // four bytes
		c.take(3)
	case 2: // numeric
		c.take(6)
	case 3, 5: // a string, opaque
		c.take(2)
		c.bytes()
	case 4: // a GUID
		c.take(18)
	default:
		c.failed = true
	}
}

const (
	hasNamespaceURI = 0x80
	hasServerIndex  = 0x40
)

func (c *checker) expandedNodeID() {
	at := c.at
	c.nodeID()
	if c.failed {
		return
	}
	mask := c.b[at]
	if mask&hasNamespaceURI != 0 {
		c.bytes()
	}
	if mask&hasServerIndex != 0 {
		c.take(4)
	}
}

// variantSizes are the sizes of the built-in types that have one.
var variantSizes = map[ua.TypeID]int{
	ua.TypeIDBoolean: 1, ua.TypeIDSByte: 1, ua.TypeIDByte: 1, ua.TypeIDInt16: 2, ua.TypeIDUint16: 2, ua.TypeIDInt32: 4, ua.TypeIDUint32: 4,
	ua.TypeIDInt64: 8, ua.TypeIDUint64: 8, ua.TypeIDFloat: 4, ua.TypeIDDouble: 8, ua.TypeIDDateTime: 8, ua.TypeIDGUID: 16, ua.TypeIDStatusCode: 4,
}

func (c *checker) variant(depth int) {
	mask := c.byte()
	builtIn := ua.TypeID(mask & 0x3f)
	if builtIn == ua.TypeIDNull || c.failed {
		return
	}
	n := 1
	if mask&ua.VariantArrayValues != 0 {
		n = c.count()
	}
	if size, ok := variantSizes[builtIn]; ok {
		c.take(n * size)
	} else {
		for range n {
			if c.failed {
				return
			}
			c.builtIn(builtIn, depth+1)
		}
	}
	if mask&ua.VariantArrayDimensions == 0 || mask&ua.VariantArrayValues == 0 {
		return
	}
	product, dimensions := int64(1), c.count()
	if dimensions > dimensionsMax {
		c.failed = true
	}
	for range dimensions {
		if d := c.uint32(); d == 0 || d > math.MaxInt32 || product > math.MaxInt32 {
			c.failed = true
		} else {
			product *= int64(d)
		}
		if c.failed {
			return
		}
	}
	if dimensions > 0 && product != int64(n) {
		c.failed = true
	}
}

func (c *checker) builtIn(builtIn ua.TypeID, depth int) {
	switch builtIn {
	case ua.TypeIDString, ua.TypeIDByteString, ua.TypeIDXMLElement:
		c.bytes()
	case ua.TypeIDNodeID:
		c.nodeID()
	case ua.TypeIDExpandedNodeID:
		c.expandedNodeID()
	case ua.TypeIDQualifiedName:
		c.take(2)
		c.bytes()
	case ua.TypeIDLocalizedText:
		c.localizedText()
	case ua.TypeIDExtensionObject:
		c.value(typeExtensionObject, depth)
	case ua.TypeIDDataValue:
		c.value(typeDataValue, depth)
	case ua.TypeIDVariant:
		c.value(typeVariant, depth)
	case ua.TypeIDDiagnosticInfo:
		c.value(typeDiagnosticInfo, depth)
	default:
		c.failed = true
	}
}

func (c *checker) dataValue(depth int) {
	mask := c.byte()
	if mask&ua.DataValueValue != 0 {
		c.value(typeVariant, depth+1)
	}
	for _, part := range []struct {
		bit  byte
		size int
	}{
		{ua.DataValueStatusCode, 4},
		{ua.DataValueSourceTimestamp, 8},
		{ua.DataValueSourcePicoseconds, 2},
		{ua.DataValueServerTimestamp, 8},
		{ua.DataValueServerPicoseconds, 2},
	} {
		if mask&part.bit != 0 {
			c.take(part.size)
		}
	}
}

func (c *checker) extensionObject(depth int) {
	at := c.at
	c.expandedNodeID()
	if c.failed {
		return
	}
	name := c.b[at:c.at]
	encoding := c.byte()
	if encoding == ua.ExtensionObjectEmpty {
		return
	}
	body := c.take(c.count())
	if c.failed || len(body) == 0 {
		return
	}
	if t := bodies[numericID(name)]; t != nil && encoding == ua.ExtensionObjectBinary {
		inner := checker{b: body}
		inner.value(t, depth+1)
		c.failed = inner.failed
		return
	}
	if encoding == ua.ExtensionObjectXML { // the codec would read a length of its own
		inner := checker{b: body}
		inner.bytes()
		c.failed = inner.failed
		return
	}
	forget(name)
}

// numericID is the number of an id in the namespace of OPC UA; 0: it is no such id.
func numericID(b []byte) uint32 {
	switch {
	case b[0] == 0:
		return uint32(b[1])
	case b[0] == 1 && b[1] == 0:
		return uint32(binary.LittleEndian.Uint16(b[2:]))
	case b[0] == 2 && b[1] == 0 && b[2] == 0:
		return binary.LittleEndian.Uint32(b[3:])
	}
	return 0
}

// forget makes a numeric id 0, which is the id of no structure; others are never one's.
func forget(b []byte) {
	switch b[0] & 0x0f {
	case 0:
		b[1] = 0
	case 1:
		clear(b[1:4])
	case 2:
		clear(b[1:7])
	}
}

func (c *checker) diagnosticInfo(depth int) {
	mask := c.byte()
	for _, bit := range []byte{ua.DiagnosticInfoSymbolicID, ua.DiagnosticInfoNamespaceURI, ua.DiagnosticInfoLocale, ua.DiagnosticInfoLocalizedText} {
		if mask&bit != 0 {
			c.take(4)
		}
	}
	if mask&ua.DiagnosticInfoAdditionalInfo != 0 {
		c.bytes()
	}
	if mask&ua.DiagnosticInfoInnerStatusCode != 0 {
		c.take(4)
	}
	if mask&ua.DiagnosticInfoInnerDiagnosticInfo != 0 {
		c.value(typeDiagnosticInfo, depth+1)
	}
}

func (c *checker) localizedText() {
	mask := c.byte()
	if mask&ua.LocalizedTextLocale != 0 {
		c.bytes()
	}
	if mask&ua.LocalizedTextText != 0 {
		c.bytes()
	}
}
