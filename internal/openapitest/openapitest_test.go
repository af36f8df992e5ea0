package openapitest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const document = `{"openapi": "3.1.0", "paths": {
  "/things": {"get": {"parameters": [{"$ref": "#/components/parameters/limit"}], "responses": {"200": {"description": "",
    "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}}}}}},
    "post": {"requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}, "responses": {"204": {"description": ""}}}},
  "/things/{name}": {"delete": {"responses": {"204": {"description": ""}, "404": {"description": "", "content": {"application/problem+json": {"schema": {"required": ["detail"]}}}}}}},
  "/things/all/{rest}": {"delete": {"responses": {"204": {"description": ""}}}}},
 "components": {"parameters": {"limit": {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 10}}},
  "schemas": {"Thing": {"type": "object", "properties": {"name": {"type": "string"}, "at": {"type": "string", "format": "date-time"}}, "required": ["name"], "additionalProperties": false}}}}`

func TestCheck(t *testing.T) {
	d, err := Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(d.Operations(), ","); got != "DELETE /things/all/{rest},DELETE /things/{name},GET /things,POST /things" {
		t.Errorf("got %s", got)
	}
	for _, c := range []struct {
		method, path, sent string
		status             int
		contentType, body  string
		wrong              string // empty: nothing
	}{
		{"GET", "/things?limit=3", "", 200, "application/json; charset=utf-8", `[{"name":"a","at":"2026-01-02T03:04:05Z"}]`, ""},
		{"HEAD", "/things", "", 200, "application/json", "", ""},
		{"POST", "/things", `{"name":"a"}`, 204, "", "", ""},
		{"DELETE", "/things/a%2Fb", "", 204, "", "", ""},
		{"DELETE", "/things/all/a/b", "", 204, "", "", ""},
		{"GET", "/thing", "", 200, "", "", "no such operation"},
		{"PUT", "/things", "", 200, "", "", "no such operation"},
		{"GET", "/things?limit=11", "", 200, "application/json", `[]`, `parameter "limit"`},
		{"GET", "/things?limit=x", "", 200, "application/json", `[]`, `parameter "limit"`},
		{"GET", "/things?other=1", "", 200, "application/json", `[]`, `no parameter "other"`},
		{"GET", "/things", "", 201, "application/json", `[]`, "the status 201"},
		{"GET", "/things", "", 200, "text/plain", `[]`, `the type is "text/plain"`},
		{"GET", "/things", "", 200, "", `[]`, "the type"},
		{"GET", "/things", "", 200, "application/json", `[{"nam":"a"}]`, "missing"},
		{"GET", "/things", "", 200, "application/json", `[{"name":"a","at":"today"}]`, "date-time"},
		{"GET", "/things", "", 200, "application/json", `[`, "EOF"},
		{"GET", "/things", `{}`, 200, "application/json", `[]`, "it has a body"},
		{"POST", "/things", "", 204, "", "", "it has no body"},
		{"POST", "/things", `{"name":1}`, 204, "", "", "got number"},
		{"DELETE", "/things/a", "", 204, "", "x", "there is a body"},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.sent))
		r.Header.Set("Content-Type", "application/json")
		err := d.Check(r, []byte(c.sent), c.status, http.Header{"Content-Type": {c.contentType}}, []byte(c.body))
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s %s %s -> %d %s: %v, want %q", c.method, c.path, c.sent, c.status, c.body, err, c.wrong)
		}
	}
	if got := strings.Join(d.Unseen("404"), ","); got != "DELETE /things/{name} 404" {
		t.Errorf("unseen: %s", got)
	}
	if got := d.Unseen(); len(got) != 1 {
		t.Errorf("unseen: %s", got)
	}
	for _, text := range []string{"", "[]", `{"openapi": "3.0.3"}`} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q is a document", text)
		}
	}
}
