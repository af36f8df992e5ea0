package opcuaserver

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// variantOf is a payload as a value: a JSON number without fraction and exponent that fits is an Int64, another one a
// Double, true and false are Booleans, a JSON string is a String. All else is a String if it is UTF-8, or a ByteString.
func variantOf(payload []byte) *ua.Variant {
	if v := jsonOf(payload); v != nil {
		return ua.MustVariant(v)
	}
	if utf8.Valid(payload) && !bytes.ContainsRune(payload, 0) {
		return ua.MustVariant(string(payload))
	}
	return ua.MustVariant(payload)
}

// jsonOf returns nil for what is no JSON value of a kind that OPC UA has.
func jsonOf(payload []byte) any {
	if len(payload) == 0 {
		return nil
	}
	switch first := payload[0]; {
	case string(payload) == "true":
		return true
	case string(payload) == "false":
		return false
	case first == '"':
		var s string
		if utf8.Valid(payload) && json.Unmarshal(payload, &s) == nil {
			return s
		}
	case (first == '-' || '0' <= first && first <= '9') && json.Valid(payload):
		text := string(bytes.TrimRight(payload, " \t\r\n"))
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	}
	return nil
}

// payloadOf is a value as a payload, and whether that is text. ok is false for what isn't one value of a simple type.
func payloadOf(v *ua.Variant) (payload []byte, text, ok bool) {
	number := func(f float64, bits int) ([]byte, bool, bool) {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, false, false
		}
		return strconv.AppendFloat(nil, f, 'g', -1, bits), true, true
	}
	switch x := v.Value().(type) {
	case bool:
		return strconv.AppendBool(nil, x), true, true
	case int8:
		return strconv.AppendInt(nil, int64(x), 10), true, true
	case int16:
		return strconv.AppendInt(nil, int64(x), 10), true, true
	case int32:
		return strconv.AppendInt(nil, int64(x), 10), true, true
	case int64:
		return strconv.AppendInt(nil, x, 10), true, true
	case uint8:
		return strconv.AppendUint(nil, uint64(x), 10), true, true
	case uint16:
		return strconv.AppendUint(nil, uint64(x), 10), true, true
	case uint32:
		return strconv.AppendUint(nil, uint64(x), 10), true, true
	case uint64:
		return strconv.AppendUint(nil, x, 10), true, true
	case float32:
		return number(float64(x), 32)
	case float64:
		return number(x, 64)
	case string:
		return []byte(x), utf8.ValidString(x), true
	case []byte:
		return x, false, v.Type() == ua.TypeIDByteString
	}
	return nil, false, false
}

// dataTypeOf is the DataType of a value of a topic.
func dataTypeOf(v *ua.DataValue) uint32 {
	if v.Value == nil {
		return id.BaseDataType
	}
	if t := v.Value.Type(); t != ua.TypeIDNull {
		return uint32(t) // built-in types have the ids of their DataTypes
	}
	return id.BaseDataType
}

// numberOf is a value as a number, if it is one.
func numberOf(v *ua.DataValue) (float64, bool) {
	if v.Value == nil {
		return 0, false
	}
	switch x := v.Value.Value().(type) {
	case int64:
		return float64(x), true
	case float64:
		return x, true
	}
	return 0, false
}
