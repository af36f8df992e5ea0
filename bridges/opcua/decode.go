package opcuabridge

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gopcua/opcua/ua"
)

// refusal is why a value isn't sent to a server, as the server would say it.
type refusal struct {
	status ua.StatusCode
	text   string
}

// Error returns what is wrong.
func (r *refusal) Error() string { return r.text }

func refuse(s ua.StatusCode, format string, args ...any) error {
	return &refusal{s, fmt.Sprintf(format, args...)}
}

// dataType is what a variable or an argument takes.
type dataType struct {
	builtin ua.TypeID
	rank    int32 // ValueRank: -1 a scalar, 1 a list, -2 any, -3 a scalar or a list, 0 a list of any dimensions
}

// typeByName returns a built-in type that values can be written as.
func typeByName(name string) (ua.TypeID, bool) {
	i := slices.Index(typeNames[:], name)
	t := ua.TypeID(i)
	if i <= 0 || !writable(t) {
		return 0, false
	}
	return t, true
}

// writable reports whether a payload can say a value of a type.
func writable(t ua.TypeID) bool {
	return t >= ua.TypeIDBoolean && t <= ua.TypeIDByteString || t == ua.TypeIDLocalizedText
}

// decodeValue makes the payload of a message a value. With FormatValue texts and ByteStrings are the payload as it is.
func decodeValue(payload []byte, f Format, t dataType) (*ua.Variant, error) {
	if f == FormatValue && t.rank != 1 {
		switch t.builtin {
		case ua.TypeIDString, ua.TypeIDLocalizedText:
			if !utf8.Valid(payload) {
				return nil, errNotUTF8
			}
			return variantOf(string(payload), t)
		case ua.TypeIDByteString:
			return ua.NewVariant(bytes.Clone(payload))
		case ua.TypeIDDateTime, ua.TypeIDGUID:
			if len(payload) > 0 && payload[0] != '"' {
				return variantOf(string(payload), t)
			}
		}
	}
	v, err := parseJSON(payload)
	if err != nil {
		return nil, err
	}
	if f == FormatJSON {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, refuse(ua.StatusBadDecodingError, `the payload is no object with a "value"`)
		}
		if v, ok = object["value"]; !ok {
			return nil, refuse(ua.StatusBadDecodingError, `the payload has no "value"`)
		}
	}
	return variantOf(v, t)
}

// errNotUTF8 is the refusal of text that the server would read as another one. So would package json, which puts U+FFFD in it.
var errNotUTF8 = refuse(ua.StatusBadDecodingError, "the payload is not UTF-8")

// parseJSON reads one JSON text, with numbers as they are written.
func parseJSON(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, errNotUTF8
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, refuse(ua.StatusBadDecodingError, "the payload is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(ua.StatusBadDecodingError, "the payload has something behind its JSON")
	}
	return v, nil
}

// variantOf makes what was JSON a value of a type. Nothing is clamped: what doesn't fit is refused, and a decimal becomes
// the nearest Float or Double.
func variantOf(v any, t dataType) (*ua.Variant, error) {
	if !writable(t.builtin) {
		return nil, refuse(ua.StatusBadNotSupported, "values of type %s can't be written", typeName(t.builtin))
	}
	list, isList := v.([]any)
	switch {
	case isList && t.rank == -1:
		return nil, refuse(ua.StatusBadTypeMismatch, "a list, where one %s is expected", typeName(t.builtin))
	case !isList && t.rank >= 0:
		return nil, refuse(ua.StatusBadTypeMismatch, "a list of %s is expected", typeName(t.builtin))
	case t.rank > 1:
		return nil, refuse(ua.StatusBadNotSupported, "lists of several dimensions can't be written")
	case !isList:
		x, err := scalarOf(v, t.builtin)
		if err != nil {
			return nil, err
		}
		return ua.NewVariant(x)
	case len(list) > ua.MaxVariantArrayLength:
		return nil, refuse(ua.StatusBadEncodingLimitsExceeded, "a list of %d values: allowed: %d", len(list), ua.MaxVariantArrayLength)
	}
	all := reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(zeroOf(t.builtin))), 0, len(list))
	for i, element := range list {
		x, err := scalarOf(element, t.builtin)
		if err != nil {
			var r *refusal
			errors.As(err, &r)
			return nil, refuse(r.status, "value %d: %s", i, r.text)
		}
		all = reflect.Append(all, reflect.ValueOf(x))
	}
	if t.builtin == ua.TypeIDByte { // []byte would be a ByteString
		return ua.NewVariant(ua.ByteArray(all.Bytes()))
	}
	return ua.NewVariant(all.Interface())
}

// zeroOf returns a value that has the Go type of a built-in type.
func zeroOf(t ua.TypeID) any {
	switch t {
	case ua.TypeIDBoolean:
		return false
	case ua.TypeIDSByte:
		return int8(0)
	case ua.TypeIDByte:
		return byte(0)
	case ua.TypeIDInt16:
		return int16(0)
	case ua.TypeIDUint16:
		return uint16(0)
	case ua.TypeIDInt32:
		return int32(0)
	case ua.TypeIDUint32:
		return uint32(0)
	case ua.TypeIDInt64:
		return int64(0)
	case ua.TypeIDUint64:
		return uint64(0)
	case ua.TypeIDFloat:
		return float32(0)
	case ua.TypeIDDouble:
		return float64(0)
	case ua.TypeIDDateTime:
		return time.Time{}
	case ua.TypeIDGUID:
		return (*ua.GUID)(nil)
	case ua.TypeIDByteString:
		return []byte(nil)
	case ua.TypeIDLocalizedText:
		return (*ua.LocalizedText)(nil)
	}
	return ""
}

// integers are the bounds of the integer types.
var integers = map[ua.TypeID]struct {
	signed bool
	bits   int
}{
	ua.TypeIDSByte: {true, 8}, ua.TypeIDByte: {false, 8}, ua.TypeIDInt16: {true, 16}, ua.TypeIDUint16: {false, 16},
	ua.TypeIDInt32: {true, 32}, ua.TypeIDUint32: {false, 32}, ua.TypeIDInt64: {true, 64}, ua.TypeIDUint64: {false, 64},
}

func scalarOf(v any, t ua.TypeID) (any, error) {
	if _, ok := integers[t]; ok {
		return integerOf(v, t)
	}
	mismatch := refuse(ua.StatusBadTypeMismatch, "%s is no %s", kindOf(v), typeName(t))
	text, isText := v.(string)
	switch t {
	case ua.TypeIDBoolean:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return nil, mismatch
	case ua.TypeIDFloat, ua.TypeIDDouble:
		return floatOf(v, t)
	}
	if !isText {
		return nil, mismatch
	}
	switch t {
	case ua.TypeIDString:
		return text, nil
	case ua.TypeIDLocalizedText:
		return ua.NewLocalizedText(text), nil
	case ua.TypeIDDateTime:
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, refuse(ua.StatusBadTypeMismatch, "a DateTime is written as 2006-01-02T15:04:05Z")
		}
		if at = at.UTC(); at.Year() < 1678 || at.Year() > 2261 { // what the library can carry
			return nil, refuse(ua.StatusBadOutOfRange, "a DateTime is from 1678 to 2261")
		}
		return at, nil
	case ua.TypeIDGUID:
		if !isGUID(text) {
			return nil, refuse(ua.StatusBadTypeMismatch, "a Guid is written as 72962B91-FA75-4AE6-8D28-B404DC7DAF63")
		}
		return ua.NewGUID(text), nil
	case ua.TypeIDByteString:
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, refuse(ua.StatusBadTypeMismatch, "a ByteString is written in base64")
		}
		return b, nil
	}
	return nil, mismatch
}

// integerOf takes digits, as a number or as text, since JSON of many makers has 64-bit integers as text.
func integerOf(v any, t ua.TypeID) (any, error) {
	digits, ok := "", false
	switch x := v.(type) {
	case json.Number:
		digits, ok = x.String(), true
	case string:
		digits, ok = x, t == ua.TypeIDInt64 || t == ua.TypeIDUint64
	}
	if !ok {
		return nil, refuse(ua.StatusBadTypeMismatch, "%s is no %s", kindOf(v), typeName(t))
	}
	of := integers[t]
	var err error
	to := reflect.New(reflect.TypeOf(zeroOf(t))).Elem()
	if of.signed {
		var n int64
		n, err = strconv.ParseInt(digits, 10, of.bits)
		to.SetInt(n)
	} else {
		var n uint64
		n, err = strconv.ParseUint(digits, 10, of.bits)
		to.SetUint(n)
	}
	switch {
	case errors.Is(err, strconv.ErrRange) || err != nil && len(digits) > 1 && digits[0] == '-' && !of.signed:
		return nil, refuse(ua.StatusBadOutOfRange, "%.40s is beyond what %s holds", digits, typeName(t))
	case err != nil:
		return nil, refuse(ua.StatusBadTypeMismatch, "%.40s is no %s", digits, typeName(t))
	}
	return to.Interface(), nil
}

func floatOf(v any, t ua.TypeID) (any, error) {
	bits := 64
	if t == ua.TypeIDFloat {
		bits = 32
	}
	var f float64
	switch x := v.(type) {
	case json.Number:
		var err error
		if f, err = strconv.ParseFloat(x.String(), bits); err != nil {
			return nil, refuse(ua.StatusBadOutOfRange, "%.40s is beyond what %s holds", x, typeName(t))
		}
	case string:
		switch x {
		case "NaN":
			f = math.NaN()
		case "Infinity":
			f = math.Inf(1)
		case "-Infinity":
			f = math.Inf(-1)
		default:
			return nil, refuse(ua.StatusBadTypeMismatch, "text is no %s", typeName(t))
		}
	default:
		return nil, refuse(ua.StatusBadTypeMismatch, "%s is no %s", kindOf(v), typeName(t))
	}
	if t == ua.TypeIDFloat {
		return float32(f), nil
	}
	return f, nil
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	case string:
		return "text"
	case []any:
		return "a list"
	}
	return "an object"
}
