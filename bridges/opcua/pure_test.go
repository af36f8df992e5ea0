package opcuabridge

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"

	"loopmq/bridges/opcua/wire"
	"loopmq/codec"
)

var prefixes = map[string]string{"p": "urn:plant"}

var namespaces = []string{"http://opcfoundation.org/UA/", "urn:server", "urn:plant", "urn:a;b%"}

func TestNodeIDs(t *testing.T) {
	for _, c := range []struct{ text, want, portable string }{
		{"i=2258", "i=2258", ""},
		{"s=Name", "s=Name", ""},
		{"ns=2;s=Name;with=all", "ns=2;s=Name;with=all", "nsu=urn:plant;s=Name;with=all"},
		{"ns=p;s=Name", "ns=2;s=Name", "nsu=urn:plant;s=Name"},
		{"nsu=urn:plant;i=7", "ns=2;i=7", ""},
		{"nsu=urn:a%3Bb%25;i=7", "ns=3;i=7", ""},
		{"ns=p;g=72962B91-FA75-4AE6-8D28-B404DC7DAF63", "ns=2;g=72962B91-FA75-4AE6-8D28-B404DC7DAF63", "nsu=urn:plant;g=72962B91-FA75-4AE6-8D28-B404DC7DAF63"},
		{"ns=1;b=AQID", "ns=1;b=AQID", "nsu=urn:server;b=AQID"},
	} {
		r, err := parseNodeID(c.text, prefixes)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		n, err := r.in(namespaces)
		if err != nil || n.String() != c.want {
			t.Errorf("%s is %v (%v), want %s", c.text, n, err, c.want)
		}
		want := c.portable
		if want == "" {
			want = c.text
		}
		if got := portable(n, namespaces); got != want {
			t.Errorf("portable(%s) is %s, want %s", n, got, want)
		}
	}
	for _, text := range []string{"", "x", "x=1", "i=", "i=-1", "i=4294967296", "ns=;i=1", "ns=q;i=1", "ns=70000;i=1", "nsu=;i=1", "nsu=urn:plant", "g=1", "b=*", "s", "s=" + strings.Repeat("x", 5000), "s=\xff"} {
		if _, err := parseNodeID(text, prefixes); err == nil {
			t.Errorf("%.20q is taken", text)
		}
	}
	r, err := parseNodeID("nsu=urn:none;i=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.in(namespaces); !errors.Is(err, errNoNamespace) {
		t.Errorf("a namespace that isn't there: %v", err)
	}
}

func TestPaths(t *testing.T) {
	got, err := parsePath("/Objects/p:Boiler&/1/2:a&:b&&/0:x:y", prefixes)
	want := []step{{name: "Objects"}, {namespace{uri: "urn:plant"}, "Boiler/1"}, {namespace{index: 2}, "a:b&"}, {namespace{}, "x:y"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	for _, text := range []string{"", "/", "Objects", "//x", "/x/", "/x/&", "/q:x", "/p:", "/x\xff"} {
		if _, err := parsePath(text, prefixes); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestTemplates(t *testing.T) {
	p := &place{names: []string{"Boiler/1", "$T+#"}, node: "nsu=http://x/;s=T"}
	for _, c := range []struct{ text, want, filter string }{
		{"a/b", "a/b", "a/b"},
		{"a/{endpoint}/{browse_path}", "a/e/Boiler_1/_T__", "a/e/#"},
		{"a/{browse_name}/set", "a/_T__/set", "a/+/set"},
		{"a/x{node_id}y", "a/xnsu=http:__x_;s=Ty", "a/+"},
		{"a/{browse_path}/set", "a/Boiler_1/_T__/set", "a/#"},
	} {
		tpl, err := parseTemplate(c.text, "e")
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := tpl.expand(p); got != c.want {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
		if got := tpl.filter(); got != c.filter {
			t.Errorf("the filter of %s: %s, want %s", c.text, got, c.filter)
		}
	}
	for _, text := range []string{"a/{x}", "a/{browse_path", "a}", "a/#", "+", "$SYS/x", "", "a\x00"} {
		if _, err := parseTemplate(text, "e"); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func value(v any) *ua.DataValue { return &ua.DataValue{Value: ua.MustVariant(v)} }

func TestFormats(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	guid := "72962B91-FA75-4AE6-8D28-B404DC7DAF63"
	for _, c := range []struct {
		value         any
		plain, part14 string
	}{
		{true, `true`, `{"Type":1,"Body":true}`},
		{int8(-1), `-1`, `{"Type":2,"Body":-1}`},
		{byte(255), `255`, `{"Type":3,"Body":255}`},
		{int16(-2), `-2`, `{"Type":4,"Body":-2}`},
		{uint16(2), `2`, `{"Type":5,"Body":2}`},
		{int32(-3), `-3`, `{"Type":6,"Body":-3}`},
		{uint32(3), `3`, `{"Type":7,"Body":3}`},
		{int64(math.MinInt64), `-9223372036854775808`, `{"Type":8,"Body":"-9223372036854775808"}`},
		{uint64(math.MaxUint64), `18446744073709551615`, `{"Type":9,"Body":"18446744073709551615"}`},
		{float32(1.5), `1.5`, `{"Type":10,"Body":1.5}`},
		{math.NaN(), `"NaN"`, `{"Type":11,"Body":"NaN"}`},
		{math.Inf(-1), `"-Infinity"`, `{"Type":11,"Body":"-Infinity"}`},
		{math.Inf(1), `"Infinity"`, `{"Type":11,"Body":"Infinity"}`},
		{"a\"b", `a"b`, `{"Type":12,"Body":"a\"b"}`},
		{at, `"2026-01-02T03:04:05.006Z"`, `{"Type":13,"Body":"2026-01-02T03:04:05.006Z"}`},
		{ua.NewGUID(guid), `"` + guid + `"`, `{"Type":14,"Body":"` + guid + `"}`},
		{[]byte("ab"), `ab`, `{"Type":15,"Body":"YWI="}`},
		{ua.NewStringNodeID(2, "x"), `"ns=2;s=x"`, `{"Type":17,"Body":{"IdType":1,"Id":"x","Namespace":2}}`},
		{ua.NewNumericNodeID(0, 7), `"i=7"`, `{"Type":17,"Body":{"Id":7}}`},
		{ua.NewGUIDNodeID(2, guid), `"ns=2;g=` + guid + `"`, `{"Type":17,"Body":{"IdType":2,"Id":"` + guid + `","Namespace":2}}`},
		{ua.NewByteStringNodeID(2, []byte("ab")), `"ns=2;b=YWI="`, `{"Type":17,"Body":{"IdType":3,"Id":"YWI=","Namespace":2}}`},
		{ua.NewExpandedNodeID(ua.NewStringNodeID(0, "x"), "urn:x", 0), `"nsu=urn:x;s=x"`, `{"Type":18,"Body":{"IdType":1,"Id":"x","Namespace":"urn:x"}}`},
		{ua.StatusBadNodeIDUnknown, `"BadNodeIdUnknown"`, `{"Type":19,"Body":2150891520}`},
		{ua.NewLocalizedTextWithLocale("x\"y", "en"), `x"y`, `{"Type":21,"Body":{"Locale":"en","Text":"x\"y"}}`},
		{&ua.QualifiedName{NamespaceIndex: 2, Name: "q"}, `{"Name":"q","Uri":2}`, `{"Type":20,"Body":{"Name":"q","Uri":2}}`},
		{[]int32{1, 2}, `[1,2]`, `{"Type":6,"Body":[1,2]}`},
		{[][]int32{{1}, {2}}, `[[1],[2]]`, `{"Type":6,"Body":[1,2],"Dimensions":[2,1]}`},
		{[][][]string{{{"a", "b"}, {"c", "d"}}}, `[[["a","b"],["c","d"]]]`, `{"Type":12,"Body":["a","b","c","d"],"Dimensions":[1,2,2]}`},
		{ua.ByteArray{1, 2}, `[1,2]`, `{"Type":3,"Body":[1,2]}`},
		{
			ua.NewExtensionObject(&ua.EUInformation{NamespaceURI: "u", UnitID: 1, DisplayName: ua.NewLocalizedText("m"), Description: nil}), `{"NamespaceURI":"u","UnitID":1,"DisplayName":"m","Description":null}`,
			`{"Type":22,"Body":{"NamespaceURI":"u","UnitID":1,"DisplayName":{"Locale":"","Text":"m"},"Description":null}}`,
		},
	} {
		s := &sample{endpoint: "e", node: "i=1", field: "f", writer: 3, value: value(c.value), now: at, message: "m"}
		if got, err := appendSample(nil, FormatValue, s); err != nil || string(got) != c.plain {
			t.Errorf("%T as value: %s (%v), want %s", c.value, got, err, c.plain)
		}
		got, err := appendSample(nil, FormatPart14, s)
		want := `{"MessageId":"m","MessageType":"ua-data","PublisherId":"e","Messages":[{"DataSetWriterId":3,"Timestamp":"2026-01-02T03:04:05.006Z","Payload":{"f":{"Value":` + c.part14 + `}}}]}`
		if err != nil || string(got) != want {
			t.Errorf("%T as part14: %s (%v), want %s", c.value, got, err, want)
		}
		if got, err = appendSample(nil, FormatJSON, s); err != nil || !json.Valid(got) {
			t.Errorf("%T as json: %s (%v)", c.value, got, err)
		}
	}
	v := &ua.DataValue{Value: ua.MustVariant(1.5), Status: ua.StatusUncertain, SourceTimestamp: at, ServerTimestamp: at}
	got, err := appendSample(nil, FormatJSON, &sample{endpoint: "e", node: "i=1", value: v})
	want := `{"endpoint":"e","node_id":"i=1","value":1.5,"type":"Double","status":"Uncertain","status_code":1073741824,"source_time":"2026-01-02T03:04:05.006Z","server_time":"2026-01-02T03:04:05.006Z"}`
	if err != nil || string(got) != want {
		t.Errorf("json: %s (%v), want %s", got, err, want)
	}
	if _, err := appendSample(nil, FormatValue, &sample{value: &ua.DataValue{Status: ua.StatusBadSensorFailure}}); !errors.Is(err, errBadValue) {
		t.Errorf("a Bad value: %v", err)
	}
	unknown := value(&ua.ExtensionObject{TypeID: ua.NewTwoByteExpandedNodeID(1)})
	if _, err := appendSample(nil, FormatJSON, &sample{value: unknown}); !errors.Is(err, errUnknownType) {
		t.Errorf("a structure that isn't known: %v", err)
	}
	deep := ua.MustVariant(int32(1))
	for range 100 {
		deep = ua.MustVariant(deep)
	}
	if _, err := appendSample(nil, FormatJSON, &sample{value: &ua.DataValue{Value: deep}}); !errors.Is(err, errUnknownType) {
		t.Errorf("values in values: %v", err)
	}
	if got := statusName(0x80FF0000); got != "0x80FF0000" {
		t.Errorf("a status that isn't known: %s", got)
	}
}

// plainTime is what a DateTime of a server is published as.
func plainTime(t *testing.T, ticks int64) string {
	t.Helper()
	v := &ua.DataValue{}
	if _, err := v.Decode(binary.LittleEndian.AppendUint64([]byte{ua.DataValueValue, byte(ua.TypeIDDateTime)}, uint64(ticks))); err != nil {
		t.Fatal(err)
	}
	got, err := appendSample(nil, FormatValue, &sample{value: v})
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// Times of all centuries are published as a server has encoded them.
func TestTimes(t *testing.T) {
	for text, want := range map[string]string{
		"1601-01-01T00:00:00.0000001Z": "1601-01-01T00:00:00.0000001Z",
		"1677-09-21T00:00:00Z":         "1677-09-21T00:00:00Z",
		"1969-12-31T23:59:59.9999999Z": "1969-12-31T23:59:59.9999999Z",
		"1970-01-01T00:00:00Z":         "1970-01-01T00:00:00Z",
		"2026-01-02T03:04:05.0067891Z": "2026-01-02T03:04:05.0067891Z",
		"2262-04-12T00:00:00Z":         "2262-04-12T00:00:00Z",
		"2500-02-28T12:00:00Z":         "2500-02-28T12:00:00Z",
		"9999-12-31T23:59:58.9999999Z": "9999-12-31T23:59:58.9999999Z",
		"9999-12-31T23:59:59.9999999Z": "9999-12-31T23:59:59Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		ticks := (at.Unix()+11_644_473_600)*10_000_000 + int64(at.Nanosecond()/100)
		if got := plainTime(t, ticks); got != `"`+want+`"` {
			t.Errorf("%s is published as %s", text, got)
		}
	}
	if got := plainTime(t, math.MaxInt64); got != `"9999-12-31T23:59:59Z"` {
		t.Errorf("the last time is published as %s", got)
	}
	if got := plainTime(t, 0); got != `null` {
		t.Errorf("no time is published as %s", got)
	}
}

// What is written is read as it was, or refused.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		payload string
		format  Format
		t       dataType
		want    any // a status: refused with it
	}{
		{"true", FormatValue, dataType{ua.TypeIDBoolean, -1}, true},
		{"1", FormatValue, dataType{ua.TypeIDBoolean, -1}, ua.StatusBadTypeMismatch},
		{"-128", FormatValue, dataType{ua.TypeIDSByte, -1}, int8(-128)},
		{"-129", FormatValue, dataType{ua.TypeIDSByte, -1}, ua.StatusBadOutOfRange},
		{"256", FormatValue, dataType{ua.TypeIDByte, -1}, ua.StatusBadOutOfRange},
		{"-1", FormatValue, dataType{ua.TypeIDUint16, -1}, ua.StatusBadOutOfRange},
		{"1.0", FormatValue, dataType{ua.TypeIDInt32, -1}, ua.StatusBadTypeMismatch},
		{"1e2", FormatValue, dataType{ua.TypeIDInt32, -1}, ua.StatusBadTypeMismatch},
		{`"1"`, FormatValue, dataType{ua.TypeIDInt32, -1}, ua.StatusBadTypeMismatch},
		{`"-5"`, FormatValue, dataType{ua.TypeIDInt64, -1}, int64(-5)},
		{"18446744073709551615", FormatValue, dataType{ua.TypeIDUint64, -1}, uint64(math.MaxUint64)},
		{"18446744073709551616", FormatValue, dataType{ua.TypeIDUint64, -1}, ua.StatusBadOutOfRange},
		{"1.5", FormatValue, dataType{ua.TypeIDFloat, -1}, float32(1.5)},
		{"1e39", FormatValue, dataType{ua.TypeIDFloat, -1}, ua.StatusBadOutOfRange},
		{`"Infinity"`, FormatValue, dataType{ua.TypeIDDouble, -1}, math.Inf(1)},
		{`"-Infinity"`, FormatValue, dataType{ua.TypeIDDouble, -1}, math.Inf(-1)},
		{`"x"`, FormatValue, dataType{ua.TypeIDDouble, -1}, ua.StatusBadTypeMismatch},
		{"true", FormatValue, dataType{ua.TypeIDDouble, -1}, ua.StatusBadTypeMismatch},
		{"{}", FormatValue, dataType{ua.TypeIDDouble, -1}, ua.StatusBadTypeMismatch},
		{"[[]]", FormatValue, dataType{ua.TypeIDDouble, 1}, ua.StatusBadTypeMismatch},
		{"[true]", FormatValue, dataType{ua.TypeIDBoolean, 1}, []bool{true}},
		{"[-1]", FormatValue, dataType{ua.TypeIDSByte, 1}, []int8{-1}},
		{"[-1]", FormatValue, dataType{ua.TypeIDInt16, 1}, []int16{-1}},
		{"[1]", FormatValue, dataType{ua.TypeIDUint16, 1}, []uint16{1}},
		{"[1]", FormatValue, dataType{ua.TypeIDUint32, 1}, []uint32{1}},
		{"[1]", FormatValue, dataType{ua.TypeIDInt64, 1}, []int64{1}},
		{"[1]", FormatValue, dataType{ua.TypeIDUint64, 1}, []uint64{1}},
		{"[1.5]", FormatValue, dataType{ua.TypeIDFloat, 1}, []float32{1.5}},
		{"[1.5]", FormatValue, dataType{ua.TypeIDDouble, 1}, []float64{1.5}},
		{`["2026-01-02T03:04:05Z"]`, FormatValue, dataType{ua.TypeIDDateTime, 1}, []time.Time{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
		{`["YWI="]`, FormatValue, dataType{ua.TypeIDByteString, 1}, [][]byte{[]byte("ab")}},
		{`["72962B91-FA75-4AE6-8D28-B404DC7DAF63"]`, FormatValue, dataType{ua.TypeIDGUID, 1}, []*ua.GUID{ua.NewGUID("72962B91-FA75-4AE6-8D28-B404DC7DAF63")}},
		{`["a"]`, FormatValue, dataType{ua.TypeIDLocalizedText, 1}, []*ua.LocalizedText{ua.NewLocalizedText("a")}},
		{"null", FormatValue, dataType{ua.TypeIDDouble, -1}, ua.StatusBadTypeMismatch},
		{`a "text"`, FormatValue, dataType{ua.TypeIDString, -1}, `a "text"`},
		{`{"value":"text"}`, FormatJSON, dataType{ua.TypeIDString, -1}, "text"},
		{"a\xff", FormatValue, dataType{ua.TypeIDString, -1}, ua.StatusBadDecodingError},
		{"a\xff", FormatValue, dataType{ua.TypeIDLocalizedText, -1}, ua.StatusBadDecodingError},
		{"{\"value\":\"a\xff\"}", FormatJSON, dataType{ua.TypeIDString, -1}, ua.StatusBadDecodingError},
		{"[\"a\xff\"]", FormatValue, dataType{ua.TypeIDString, 1}, ua.StatusBadDecodingError},
		{`{"value":7}`, FormatJSON, dataType{ua.TypeIDString, -1}, ua.StatusBadTypeMismatch},
		{`{"x":7}`, FormatJSON, dataType{ua.TypeIDInt32, -1}, ua.StatusBadDecodingError},
		{`7`, FormatJSON, dataType{ua.TypeIDInt32, -1}, ua.StatusBadDecodingError},
		{`7 8`, FormatValue, dataType{ua.TypeIDInt32, -1}, ua.StatusBadDecodingError},
		{`{`, FormatValue, dataType{ua.TypeIDInt32, -1}, ua.StatusBadDecodingError},
		{"ab", FormatValue, dataType{ua.TypeIDByteString, -1}, []byte("ab")},
		{"\xff", FormatValue, dataType{ua.TypeIDByteString, -1}, []byte{0xff}},
		{`{"value":"YWI="}`, FormatJSON, dataType{ua.TypeIDByteString, -1}, []byte("ab")},
		{`{"value":"*"}`, FormatJSON, dataType{ua.TypeIDByteString, -1}, ua.StatusBadTypeMismatch},
		{"2026-01-02T03:04:05Z", FormatValue, dataType{ua.TypeIDDateTime, -1}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		{"0001-01-02T03:04:05Z", FormatValue, dataType{ua.TypeIDDateTime, -1}, ua.StatusBadOutOfRange},
		{"1677-12-31T23:59:59Z", FormatValue, dataType{ua.TypeIDDateTime, -1}, ua.StatusBadOutOfRange},
		{"1678-01-01T00:30:00+01:00", FormatValue, dataType{ua.TypeIDDateTime, -1}, ua.StatusBadOutOfRange},
		{"1678-01-01T00:00:00Z", FormatValue, dataType{ua.TypeIDDateTime, -1}, time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"2261-12-31T23:59:59Z", FormatValue, dataType{ua.TypeIDDateTime, -1}, time.Date(2261, 12, 31, 23, 59, 59, 0, time.UTC)},
		{"2262-01-01T00:00:00Z", FormatValue, dataType{ua.TypeIDDateTime, -1}, ua.StatusBadOutOfRange},
		{"yesterday", FormatValue, dataType{ua.TypeIDDateTime, -1}, ua.StatusBadTypeMismatch},
		{"72962B91-FA75-4AE6-8D28-B404DC7DAF63", FormatValue, dataType{ua.TypeIDGUID, -1}, ua.NewGUID("72962B91-FA75-4AE6-8D28-B404DC7DAF63")},
		{"7", FormatValue, dataType{ua.TypeIDGUID, -1}, ua.StatusBadTypeMismatch},
		{"text", FormatValue, dataType{ua.TypeIDLocalizedText, -1}, ua.NewLocalizedText("text")},
		{"[1,2]", FormatValue, dataType{ua.TypeIDInt32, 1}, []int32{1, 2}},
		{"[1,2]", FormatValue, dataType{ua.TypeIDByte, 1}, ua.ByteArray{1, 2}},
		{`["a"]`, FormatValue, dataType{ua.TypeIDString, 1}, []string{"a"}},
		{`["a"]`, FormatValue, dataType{ua.TypeIDInt32, -3}, ua.StatusBadTypeMismatch},
		{"[1,2]", FormatValue, dataType{ua.TypeIDInt32, -1}, ua.StatusBadTypeMismatch},
		{"1", FormatValue, dataType{ua.TypeIDInt32, 1}, ua.StatusBadTypeMismatch},
		{"[[1]]", FormatValue, dataType{ua.TypeIDInt32, 2}, ua.StatusBadNotSupported},
		{"[300]", FormatValue, dataType{ua.TypeIDByte, 1}, ua.StatusBadOutOfRange},
		{"{}", FormatValue, dataType{ua.TypeIDInt32, -2}, ua.StatusBadTypeMismatch},
		{"1", FormatValue, dataType{ua.TypeIDExtensionObject, -1}, ua.StatusBadNotSupported},
	} {
		v, err := decodeValue([]byte(c.payload), c.format, c.t)
		var r *refusal
		if status, refused := c.want.(ua.StatusCode); refused {
			if !errors.As(err, &r) || r.status != status {
				t.Errorf("%s as %s: %v, want %s", c.payload, typeName(c.t.builtin), err, statusName(status))
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(v.Value(), c.want) || v.Type() != c.t.builtin {
			t.Errorf("%s as %s: %v (%v), want %v", c.payload, typeName(c.t.builtin), v, err, c.want)
		}
	}
	if _, err := variantOf(make([]any, ua.MaxVariantArrayLength+1), dataType{ua.TypeIDInt32, 1}); err == nil {
		t.Error("a list that the library can't read again is taken")
	}
}

func TestEndpointsAreChecked(t *testing.T) {
	good := func() *Endpoint {
		return &Endpoint{Name: "e", URL: "opc.tcp://h:4840/x", Mappings: []Mapping{{Node: "i=1", Topic: "a"}}, Calls: []Call{{Topic: "c", Object: "i=1", Method: "i=2"}}}
	}
	if err := good().SetDefaults(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Endpoint){
		"Name:":                     func(e *Endpoint) { e.Name = "a b" },
		"URL:":                      func(e *Endpoint) { e.URL = "http://x" },
		"StatusTopic:":              func(e *Endpoint) { e.StatusTopic = "a/{browse_name}" },
		"ResponseTopics[0]:":        func(e *Endpoint) { e.ResponseTopics = []string{"a/#/b"} },
		"PublishingInterval, Sess":  func(e *Endpoint) { e.PublishingInterval = -1 },
		"Security: Policy:":         func(e *Endpoint) { e.Security.Policy = "x" },
		"Security: Certificate,":    func(e *Endpoint) { e.Security.Policy = PolicyBasic256Sha256 },
		"Security: Password:":       func(e *Endpoint) { e.Security.Username = "u" },
		"Security: UserCertificate": func(e *Endpoint) { e.Security.UserCertificate = []byte{1} },
		"Mappings[0].Node, Path, Tree: allowed: one":        func(e *Endpoint) { e.Mappings[0].Path = "/x" },
		"Mappings[0].Node, Path, Tree: \"x\"":               func(e *Endpoint) { e.Mappings[0].Node = "x" },
		"Mappings[0].Topic, WriteTopic:":                    func(e *Endpoint) { e.Mappings[0].Topic = "" },
		"Mappings[0].Topic: \"+\"":                          func(e *Endpoint) { e.Mappings[0].Topic = "+" },
		"Mappings[0].WriteTopic: \"{node_id}\"":             func(e *Endpoint) { e.Mappings[0].WriteTopic = "{node_id}" },
		"Mappings[0].Deadband, PercentDeadband:":            func(e *Endpoint) { e.Mappings[0].Deadband = math.NaN() },
		"Mappings[0].QoS:":                                  func(e *Endpoint) { e.Mappings[0].QoS = 3 },
		"Mappings[0].Format: \"x\"":                         func(e *Endpoint) { e.Mappings[0].Format = "x" },
		"Mappings[0].Format: part14":                        func(e *Endpoint) { e.Mappings[0].Format, e.Mappings[0].WriteTopic = FormatPart14, "x" },
		"Mappings[0].Type:":                                 func(e *Endpoint) { e.Mappings[0].Type = "Variant" },
		"Mappings[0].PublishingInterval, SamplingInterval:": func(e *Endpoint) { e.Mappings[0].SamplingInterval = -1 },
		"Calls[0].Topic:":                                   func(e *Endpoint) { e.Calls[0].Topic = "" },
		"Calls[0].Object:":                                  func(e *Endpoint) { e.Calls[0].Object = "" },
		"Calls[0].Method:":                                  func(e *Endpoint) { e.Calls[0].Method = "x" },
		"Calls[1].Topic:":                                   func(e *Endpoint) { e.Calls = append(e.Calls, e.Calls[0]) },
	} {
		e := good()
		change(e)
		if err := e.SetDefaults(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func FuzzNodeID(f *testing.F) {
	for _, text := range []string{"i=1", "ns=p;s=x", "nsu=urn:plant;g=72962B91-FA75-4AE6-8D28-B404DC7DAF63", "b=AQID", "ns=2;i=4294967295"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseNodeID(text, prefixes)
		if err != nil {
			return
		}
		n, err := r.in(namespaces)
		if err != nil {
			return
		}
		again, err := parseNodeID(portable(n, namespaces), nil)
		if err != nil {
			t.Fatalf("%q is %q, which is none: %v", text, portable(n, namespaces), err)
		}
		same, err := again.in(namespaces)
		if err != nil || same.String() != n.String() {
			t.Fatalf("%q is %s, and then %s (%v)", text, n, same, err)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/Objects/p:Boiler&/1/2:a&:b")
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := parsePath(text, prefixes)
		if err != nil {
			return
		}
		for _, s := range steps {
			if s.name == "" {
				t.Fatalf("%q has an empty name", text)
			}
		}
	})
}

func FuzzTemplate(f *testing.F) {
	f.Add("a/{endpoint}/{browse_path}", "Boiler/1", "nsu=x;s=$")
	f.Add("a/{browse_name}{node_id}/b", "+#\x00", "")
	f.Fuzz(func(t *testing.T, text, name, node string) {
		tpl, err := parseTemplate(text, "e")
		if err != nil {
			return
		}
		topic := tpl.expand(&place{names: []string{name, "x", name}, node: node})
		if len(topic) > 60_000 {
			return
		}
		if !codec.ValidTopicName([]byte(topic)) {
			t.Fatalf("%q makes %q, which is no Topic Name", text, topic)
		}
		if filter := tpl.filter(); !codec.ValidTopicFilter([]byte(filter)) {
			t.Fatalf("%q makes %q, which is no Topic Filter", text, filter)
		}
	})
}

func FuzzDecodeValue(f *testing.F) {
	for _, text := range []string{"1", `{"value":[1,2]}`, `"x"`, "-1.5e300", "[]", "2026-01-02T03:04:05Z"} {
		f.Add([]byte(text), byte(ua.TypeIDInt32), int8(1), true)
		f.Add([]byte(text), byte(ua.TypeIDDouble), int8(-1), false)
	}
	f.Fuzz(func(t *testing.T, payload []byte, builtin byte, rank int8, object bool) {
		format := FormatValue
		if object {
			format = FormatJSON
		}
		v, err := decodeValue(payload, format, dataType{ua.TypeID(builtin), int32(rank)})
		if err != nil {
			var r *refusal
			if !errors.As(err, &r) || !isBad(r.status) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if _, err := v.Encode(); err != nil {
			t.Fatalf("%q is %v, which can't be sent: %v", payload, v.Value(), err)
		}
		out, err := appendSample(nil, FormatJSON, &sample{value: &ua.DataValue{Value: v}})
		if err != nil || !json.Valid(out) {
			t.Fatalf("%q becomes %s (%v)", payload, out, err)
		}
	})
}

// FuzzSample has values as a server might send them.
func FuzzSample(f *testing.F) {
	for _, v := range []any{1.5, "x", []int32{1}, ua.NewStringNodeID(2, "x"), ua.NewLocalizedText("x")} {
		b, err := ua.MustVariant(v).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := &ua.Variant{}
		if _, err := wire.Check(b, reflect.TypeFor[*ua.Variant](), 1<<16); err != nil {
			return
		}
		if _, err := v.Decode(b); err != nil {
			return
		}
		for _, format := range []Format{FormatJSON, FormatPart14} {
			out, err := appendSample(nil, format, &sample{value: &ua.DataValue{Value: v}})
			if err == nil && !json.Valid(out) {
				t.Fatalf("%s: %q becomes %s", format, b, out)
			}
		}
	})
}
