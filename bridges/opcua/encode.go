package opcuabridge

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/gopcua/opcua/ua"
)

// Format is how values are written into messages.
type Format string

// The formats.
const (
	// FormatValue is the value by itself: text as it is, a ByteString as bytes, all else as JSON.
	FormatValue Format = "value"
	// FormatJSON is an object with the value, its type, status and times.
	FormatJSON Format = "json"
	// FormatPart14 is a NetworkMessage with one DataSetMessage in the JSON of OPC 10000-14, 7.2.5, whose field is a
	// DataValue in the reversible form of OPC 10000-6, 5.4.
	FormatPart14 Format = "part14"
)

var (
	// errBadValue: it has a Bad status, for which FormatValue has no place.
	errBadValue = errors.New("the value has a Bad status")
	// errUnknownType: a structure that is not of the standard, which the library can't decode.
	errUnknownType = errors.New("the value is a structure that isn't known")
)

// overflow are the bits of a status that say that a queue at the server was full (OPC 10000-4, 7.39.1).
const overflow = 0x0480

// typeNames are the built-in types, as OPC 10000-6, 5.1.2 calls them.
var typeNames = [...]string{
	ua.TypeIDNull: "Null", ua.TypeIDBoolean: "Boolean", ua.TypeIDSByte: "SByte", ua.TypeIDByte: "Byte", ua.TypeIDInt16: "Int16",
	ua.TypeIDUint16: "UInt16", ua.TypeIDInt32: "Int32", ua.TypeIDUint32: "UInt32", ua.TypeIDInt64: "Int64", ua.TypeIDUint64: "UInt64",
	ua.TypeIDFloat: "Float", ua.TypeIDDouble: "Double", ua.TypeIDString: "String", ua.TypeIDDateTime: "DateTime", ua.TypeIDGUID: "Guid",
	ua.TypeIDByteString: "ByteString", ua.TypeIDXMLElement: "XmlElement", ua.TypeIDNodeID: "NodeId", ua.TypeIDExpandedNodeID: "ExpandedNodeId",
	ua.TypeIDStatusCode: "StatusCode", ua.TypeIDQualifiedName: "QualifiedName", ua.TypeIDLocalizedText: "LocalizedText",
	ua.TypeIDExtensionObject: "ExtensionObject", ua.TypeIDDataValue: "DataValue", ua.TypeIDVariant: "Variant", ua.TypeIDDiagnosticInfo: "DiagnosticInfo",
}

func typeName(t ua.TypeID) string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return strconv.Itoa(int(t))
}

// statusName returns a status as the standard writes it, such as BadNodeIdUnknown.
func statusName(s ua.StatusCode) string {
	s &= 0xffff0000 // the rest says more of a value, or nothing
	if s == ua.StatusOK {
		return "Good"
	}
	d, ok := ua.StatusCodes[s]
	if !ok {
		return fmt.Sprintf("0x%08X", uint32(s))
	}
	return strings.NewReplacer("ID", "Id", "TCP", "Tcp", "URI", "Uri", "CRL", "Crl").Replace(strings.TrimPrefix(d.Name, "Status"))
}

// isBad reports whether a status is neither Good nor Uncertain.
func isBad(s ua.StatusCode) bool { return s&0x80000000 != 0 }

// sample is a value on its way to a message.
type sample struct {
	endpoint string
	node     string
	field    string // the browse name
	writer   int    // the DataSetWriterId
	value    *ua.DataValue
	now      time.Time
	message  string // the MessageId
}

// appendSample appends the payload for a sample.
func appendSample(b []byte, f Format, s *sample) ([]byte, error) {
	switch f {
	case FormatValue:
		return appendPlain(b, s.value)
	case FormatPart14:
		return appendPart14(b, s)
	}
	return appendObject(b, s)
}

// valueOf returns what is in a DataValue, nil if there is nothing.
func valueOf(v *ua.DataValue) any {
	if v == nil || v.Value == nil {
		return nil
	}
	return v.Value.Value()
}

func appendPlain(b []byte, v *ua.DataValue) ([]byte, error) {
	if isBad(v.Status) {
		return b, errBadValue
	}
	switch x := valueOf(v).(type) {
	case string:
		return append(b, x...), nil
	case []byte:
		return append(b, x...), nil
	case *ua.LocalizedText:
		if x != nil {
			return append(b, x.Text...), nil
		}
		return append(b, "null"...), nil
	default:
		return (&encoder{}).append(b, x)
	}
}

func appendObject(b []byte, s *sample) ([]byte, error) {
	v := s.value
	b = append(b, `{"endpoint":`...)
	b = appendString(b, s.endpoint)
	b = append(b, `,"node_id":`...)
	b = appendString(b, s.node)
	b = append(b, `,"value":`...)
	b, err := (&encoder{}).append(b, valueOf(v))
	if err != nil {
		return b, err
	}
	t := ua.TypeIDNull
	if v.Value != nil {
		t = v.Value.Type()
	}
	b = append(append(append(b, `,"type":"`...), typeName(t)...), `","status":"`...)
	b = append(append(b, statusName(v.Status)...), `","status_code":`...)
	b = strconv.AppendUint(b, uint64(v.Status), 10)
	b = appendTimeField(b, `,"source_time":`, exact(v.SourceTimestamp))
	b = appendTimeField(b, `,"server_time":`, exact(v.ServerTimestamp))
	return append(b, '}'), nil
}

func appendPart14(b []byte, s *sample) ([]byte, error) {
	b = append(b, `{"MessageId":`...)
	b = appendString(b, s.message)
	b = append(b, `,"MessageType":"ua-data","PublisherId":`...)
	b = appendString(b, s.endpoint)
	b = append(b, `,"Messages":[{"DataSetWriterId":`...)
	b = strconv.AppendInt(b, int64(s.writer), 10)
	b = appendTimeField(b, `,"Timestamp":`, s.now)
	b = append(b, `,"Payload":{`...)
	b = appendString(b, s.field)
	b = append(b, ':')
	b, err := (&encoder{reversible: true}).dataValue(b, s.value)
	return append(b, `}}]}`...), err
}

// appendTimeField appends a member with a time, unless there is none.
func appendTimeField(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return appendTime(append(b, name...), t)
}

func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

const (
	ticksPerSecond = 10_000_000
	unixSeconds    = 11_644_473_600 // from 1601 to 1970
	ticksBits      = 62             // what the library leaves of a time
	inverseOf25    = 0x8f5c28f5c28f5c29
)

// latest is what later times are, too. [OPC 10000-6, 5.2.2.5]
var latest = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// exact is a time of a server. The library reads ticks of 100 ns since 1601 as ns since 1970 in 64 bits, which are too few from 2262 on:
// what it returns then is a time of other centuries. Multiplying by 100 has lost two bits, which no time up to 9999 needs.
func exact(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	ticks := (uint64(t.UnixNano())>>2*inverseOf25 + unixSeconds*ticksPerSecond) % (1 << ticksBits)
	if at := time.Unix(int64(ticks/ticksPerSecond)-unixSeconds, int64(ticks%ticksPerSecond)*100).UTC(); at.Before(latest) {
		return at
	}
	return latest
}

func appendString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // it never is: invalid UTF-8 is replaced
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// encoder writes values as JSON.
type encoder struct {
	// reversible: as OPC 10000-6, 5.4 has it, so that a Variant says its type and 64-bit integers are text; else as one
	// would write them by hand.
	reversible bool
	depth      int
}

// depthMax is how deep values may be within values.
const depthMax = 32

func (e *encoder) append(b []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, x), nil
	case int8:
		return strconv.AppendInt(b, int64(x), 10), nil
	case byte:
		return strconv.AppendUint(b, uint64(x), 10), nil
	case int16:
		return strconv.AppendInt(b, int64(x), 10), nil
	case uint16:
		return strconv.AppendUint(b, uint64(x), 10), nil
	case int32:
		return strconv.AppendInt(b, int64(x), 10), nil
	case uint32:
		return strconv.AppendUint(b, uint64(x), 10), nil
	case int64:
		return e.quoted(b, strconv.FormatInt(x, 10)), nil
	case uint64:
		return e.quoted(b, strconv.FormatUint(x, 10)), nil
	case float32:
		return appendFloat(b, float64(x), 32), nil
	case float64:
		return appendFloat(b, x, 64), nil
	case string:
		return appendString(b, x), nil
	case ua.XMLElement:
		return appendString(b, string(x)), nil
	case time.Time:
		if x.IsZero() && !e.reversible {
			return append(b, "null"...), nil
		}
		return appendTime(b, exact(x)), nil
	case []byte:
		if x == nil {
			return append(b, "null"...), nil
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, x)
		return append(b, '"'), nil
	case ua.StatusCode:
		if e.reversible {
			return strconv.AppendUint(b, uint64(x), 10), nil
		}
		return appendString(b, statusName(x)), nil
	}
	if e.depth++; e.depth > depthMax {
		return b, errUnknownType
	}
	defer func() { e.depth-- }()
	return e.composed(b, v)
}

// composed appends what has parts.
func (e *encoder) composed(b []byte, v any) ([]byte, error) {
	if r := reflect.ValueOf(v); (r.Kind() == reflect.Pointer || r.Kind() == reflect.Slice) && r.IsNil() {
		return append(b, "null"...), nil
	}
	switch x := v.(type) {
	case *ua.GUID:
		return appendString(b, x.String()), nil
	case *ua.NodeID:
		return e.nodeID(b, x, ""), nil
	case *ua.ExpandedNodeID:
		if x.NodeID == nil {
			return append(b, "null"...), nil
		}
		return e.nodeID(b, x.NodeID, x.NamespaceURI), nil
	case *ua.QualifiedName:
		return e.object(b, "Name", x.Name, "Uri", x.NamespaceIndex)
	case *ua.LocalizedText:
		if !e.reversible {
			return appendString(b, x.Text), nil
		}
		return e.object(b, "Locale", x.Locale, "Text", x.Text)
	case *ua.DataValue:
		return e.dataValue(b, x)
	case *ua.Variant:
		return e.variant(b, x)
	case *ua.DiagnosticInfo:
		return append(b, "null"...), nil // no value of a variable has one
	case *ua.ExtensionObject:
		if x.Value == nil {
			return b, errUnknownType
		}
		return e.composed(b, x.Value)
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice:
		b = append(b, '[')
		var err error
		for i := range r.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = e.append(b, r.Index(i).Interface()); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case reflect.Pointer:
		return e.composed(b, r.Elem().Interface())
	case reflect.Struct:
		return e.structure(b, r)
	case reflect.Int32, reflect.Uint32, reflect.Uint8: // an enumeration or a set of bits
		return fmt.Appendf(b, "%d", v), nil
	}
	return b, errUnknownType
}

// structure appends one of those that the standard defines.
func (e *encoder) structure(b []byte, r reflect.Value) ([]byte, error) {
	b = append(b, '{')
	for i := range r.NumField() {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, r.Type().Field(i).Name), ':')
		var err error
		if b, err = e.append(b, r.Field(i).Interface()); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// object appends names and values in turn.
func (e *encoder) object(b []byte, pairs ...any) ([]byte, error) {
	for i, p := range pairs {
		switch {
		case i == 0:
			b = append(b, '{')
		case i%2 == 0:
			b = append(b, ',')
		default:
			b = append(b, ':')
		}
		var err error
		if b, err = e.append(b, p); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

func (e *encoder) quoted(b []byte, digits string) []byte {
	if e.reversible {
		return append(append(append(b, '"'), digits...), '"')
	}
	return append(b, digits...)
}

// appendFloat appends a number, or as text what JSON has none for.
func appendFloat(b []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	return strconv.AppendFloat(b, f, 'g', -1, bits)
}

// nodeID appends a NodeId: as text, or reversibly as its parts.
func (e *encoder) nodeID(b []byte, n *ua.NodeID, uri string) []byte {
	if !e.reversible {
		text := n.String()
		if _, id, ok := strings.Cut(text, ";"); uri != "" && ok {
			text = "nsu=" + uri + ";" + id
		} else if uri != "" {
			text = "nsu=" + uri + ";" + text
		}
		return appendString(b, text)
	}
	b = append(b, '{')
	switch n.Type() {
	case ua.NodeIDTypeString:
		b = appendString(append(b, `"IdType":1,"Id":`...), n.StringID())
	case ua.NodeIDTypeGUID:
		b = appendString(append(b, `"IdType":2,"Id":`...), n.StringID())
	case ua.NodeIDTypeByteString:
		b = appendString(append(b, `"IdType":3,"Id":`...), n.StringID())
	default:
		b = strconv.AppendUint(append(b, `"Id":`...), uint64(n.IntID()), 10)
	}
	switch {
	case uri != "":
		b = appendString(append(b, `,"Namespace":`...), uri)
	case n.Namespace() > 0:
		b = strconv.AppendUint(append(b, `,"Namespace":`...), uint64(n.Namespace()), 10)
	}
	return append(b, '}')
}

func (e *encoder) dataValue(b []byte, v *ua.DataValue) ([]byte, error) {
	b = append(b, `{"Value":`...)
	b, err := e.variant(b, v.Value)
	if err != nil {
		return b, err
	}
	if v.Status != ua.StatusOK {
		b = strconv.AppendUint(append(b, `,"Status":`...), uint64(v.Status), 10)
	}
	b = appendTimeField(b, `,"SourceTimestamp":`, exact(v.SourceTimestamp))
	b = appendTimeField(b, `,"ServerTimestamp":`, exact(v.ServerTimestamp))
	return append(b, '}'), nil
}

// flat returns the value of a Variant as its reversible form has it: a matrix as a list of its elements, with its dimensions.
func flat(v *ua.Variant) (value any, dimensions []int32) {
	r := reflect.ValueOf(v.Value())
	if dimensions = v.ArrayDimensions(); len(dimensions) < 2 {
		return v.Value(), nil
	}
	for range dimensions[1:] {
		elements := reflect.MakeSlice(r.Type().Elem(), 0, int(v.ArrayLength()))
		for i := range r.Len() {
			elements = reflect.AppendSlice(elements, r.Index(i))
		}
		r = elements
	}
	return r.Interface(), dimensions
}

func (e *encoder) variant(b []byte, v *ua.Variant) ([]byte, error) {
	switch {
	case v == nil || v.Value() == nil:
		return append(b, "null"...), nil
	case !e.reversible:
		return e.append(b, v.Value())
	}
	b = strconv.AppendUint(append(b, `{"Type":`...), uint64(v.Type()), 10)
	b = append(b, `,"Body":`...)
	value, dimensions := flat(v)
	b, err := e.append(b, value)
	for i, n := range dimensions {
		if i == 0 {
			b = append(b, `,"Dimensions":[`...)
		} else {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	if len(dimensions) > 0 {
		b = append(b, ']')
	}
	return append(b, '}'), err
}
