package httpbridge

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"loopmq"
)

// What is read fast is what is read at all.
func FuzzMessage(f *testing.F) {
	for _, text := range []string{
		`{"topic":"t/a","payload":"x","qos":1,"retain":true}`, `{"topic":"t/a","payload":"x"} `, ` { "payload" : "" , "topic":"t" }`, `{"topic":"t","payload":"\u00e9"}`,
		`{"topic":"t","payload":{"a":1},"payload_encoding":"json","properties":{"user_properties":{"a":["b"]}}}`, `{"topic":"t","topic":"u","payload":"x"}`, `{"Topic":"t","payload":"x"}`,
		`{"topic":"t","payload":"x","qos":01}`, `{"topic":"t","payload":"x",}`, `{}`, `[`, "{\"topic\":\"\xff\",\"payload\":\"x\"}",
		`{"topic":"t","payload":"x","properties":{"user_properties":[["a","b"]],"correlation_data":"AA==","correlation_data_encoding":"base64"}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var quick, slow loopmq.Message
		if !quickMessage(text, &quick) {
			_ = decodeMessage(text, &slow)
			return
		}
		var m message
		if err := decodeJSON(text, &m); err != nil {
			t.Fatalf("%q is read fast, though: %v", text, err)
		}
		if err := checkMembers(text); err != nil {
			t.Fatalf("%q is read fast, though: %v", text, err)
		}
		if err := m.translate(&slow); err != nil || !reflect.DeepEqual(quick, slow) {
			t.Fatalf("%q: %+v fast, %+v slow, %v", text, quick, slow, err)
		}
	})
}

// Properties that were read are read again from what is written of them.
func FuzzPropertyHeaders(f *testing.F) {
	f.Add("1", "60", "text/plain", "r/%C3%A9", "AAE=", "a=b, c=%2C")
	f.Add("2", "0", "", "%", "*", "a")
	f.Fuzz(func(t *testing.T, format, expiry, contentType, response, correlation, user string) {
		h := http.Header{headerFormat: {format}, headerExpiry: {expiry}, headerContentType: {contentType}, headerResponse: {response}, headerCorrelation: {correlation}, headerUser: {user}}
		var m, again loopmq.Message
		if readProperties(h, &m) != nil {
			return
		}
		written := http.Header{}
		written.Set("Content-Type", writeProperties(written, &m))
		written.Del(headerQoS)
		if err := readProperties(written, &again); err != nil {
			t.Fatalf("%+v is written as %v: %v", m, written, err)
		}
		if m.ContentType == "" {
			again.ContentType = "" // which has a type of HTTP nevertheless
		}
		if len(m.CorrelationData) == 0 {
			m.CorrelationData, again.CorrelationData = nil, nil
		}
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v is written as %v, and read as %+v", m, written, again)
		}
	})
}

// No path makes the routes panic, and what a route is given is not empty.
func FuzzTopicPath(f *testing.F) {
	for _, path := range []string{"/topics/a/b", "/topics//a", "/topics/a%2Fb/", "/topics/", "/topics/%00", "/request/x", "//topics/a", "/publish"} {
		f.Add(path)
	}
	routes := (&Bridge{}).table()
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest("POST", "/", nil)
		u, err := r.URL.Parse(path)
		if err != nil {
			return
		}
		r.URL = u
		found, ok, _ := findRoute(routes, r)
		if ok && found.serve == nil {
			t.Fatal("a route without a handler")
		}
	})
}
