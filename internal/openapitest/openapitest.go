// Package openapitest holds handlers to the OpenAPI 3.1 document that describes them: each
// request and answer of a test is checked against it, and at the end what the document
// has that no test saw.
package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Document is an OpenAPI 3.1 document. Its methods are safe for concurrent use.
type Document struct {
	root     map[string]any
	compiler *jsonschema.Compiler

	mu   sync.Mutex
	seen map[string]bool // "METHOD PATH STATUS"
}

// name is what schemas are known by.
const name = "http://localhost/openapi.json"

// Parse reads a document as JSON.
func Parse(text []byte) (*Document, error) {
	root, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	object, ok := root.(map[string]any)
	if version, _ := object["openapi"].(string); !ok || !strings.HasPrefix(version, "3.1.") {
		return nil, fmt.Errorf("openapi is %v, want 3.1", object["openapi"])
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource(name, root); err != nil {
		return nil, err
	}
	return &Document{root: object, compiler: c, seen: map[string]bool{}}, nil
}

// Operations returns all operations as "METHOD PATH", in order.
func (d *Document) Operations() (all []string) {
	for path, item := range object(d.root["paths"]) {
		for method := range object(item) {
			all = append(all, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(all)
	return all
}

// Check returns what is wrong with a request and its answer: an operation, parameter,
// status, type or body that the document doesn't have. requestBody is empty if there was
// none. A request that was answered with 400 or more may have been wrong on purpose, so
// only its answer is looked at.
func (d *Document) Check(r *http.Request, requestBody []byte, status int, header http.Header, body []byte) error {
	method := strings.ToLower(r.Method)
	if method == "head" {
		method = "get"
	}
	path, ok := d.find(r.URL.EscapedPath(), method)
	if !ok {
		return fmt.Errorf("%s %s: there is no such operation", r.Method, r.URL.Path)
	}
	where := "/paths/" + escape(path) + "/" + method
	operation := object(object(object(d.root["paths"])[path])[method])
	if status < http.StatusBadRequest {
		if err := d.checkRequest(r, operation, where, requestBody); err != nil {
			return fmt.Errorf("%s %s: the request: %w", r.Method, r.URL, err)
		}
	}
	answer, at := d.resolve(object(operation["responses"])[fmt.Sprint(status)], fmt.Sprintf("%s/responses/%d", where, status))
	if answer == nil {
		return fmt.Errorf("%s %s: the status %d isn't one of %s", r.Method, r.URL, status, path)
	}
	d.mu.Lock()
	d.seen[fmt.Sprintf("%s %s %d", strings.ToUpper(method), path, status)] = true
	d.mu.Unlock()
	if r.Method == http.MethodHead {
		return nil
	}
	if err := d.checkContent(answer, at, header.Get("Content-Type"), body); err != nil {
		return fmt.Errorf("%s %s: the answer %d: %w: %s", r.Method, r.URL, status, err, body)
	}
	return nil
}

// Unseen returns the answers that no Check saw, as "METHOD PATH STATUS", in order: those
// whose status is one of some, or all if none is given.
func (d *Document) Unseen(statuses ...string) (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, item := range object(d.root["paths"]) {
		for method, operation := range object(item) {
			for status := range object(object(operation)["responses"]) {
				id := strings.ToUpper(method) + " " + path + " " + status
				if !d.seen[id] && (len(statuses) == 0 || slices.Contains(statuses, status)) {
					all = append(all, id)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// checkRequest looks at the query and the body.
func (d *Document) checkRequest(r *http.Request, operation map[string]any, where string, body []byte) error {
	parameters := list(operation["parameters"])
	for given, values := range r.URL.Query() {
		i := slices.IndexFunc(parameters, func(p any) bool {
			o, _ := d.resolve(p, "")
			return o["in"] == "query" && o["name"] == given
		})
		if i < 0 {
			return fmt.Errorf("there is no parameter %q", given)
		}
		p, at := d.resolve(parameters[i], fmt.Sprintf("%s/parameters/%d", where, i))
		var value any = values[0]
		if t := object(p["schema"])["type"]; t == "integer" || t == "boolean" {
			if err := json.Unmarshal([]byte(values[0]), &value); err != nil {
				return fmt.Errorf("the parameter %q: %w", given, err)
			}
		}
		if err := d.validate(at+"/schema", value); err != nil {
			return fmt.Errorf("the parameter %q: %w", given, err)
		}
	}
	content, at := d.resolve(operation["requestBody"], where+"/requestBody")
	switch {
	case len(body) == 0 && content["required"] == true:
		return fmt.Errorf("it has no body")
	case len(body) == 0:
		return nil
	case content == nil:
		return fmt.Errorf("it has a body")
	}
	return d.checkContent(content, at, r.Header.Get("Content-Type"), body)
}

// checkContent looks at a body of a type.
func (d *Document) checkContent(o map[string]any, at, contentType string, body []byte) error {
	content := object(o["content"])
	if content == nil {
		if len(body) > 0 {
			return fmt.Errorf("there is a body, want none")
		}
		return nil
	}
	_, anyType := content["*/*"]
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil && !anyType {
		return fmt.Errorf("the type %q: %w", contentType, err)
	}
	media, ok := content[t]
	if anyType && !ok {
		return nil
	}
	if !ok {
		return fmt.Errorf("the type is %q, which the document doesn't have", t)
	}
	if object(media)["schema"] == nil || t != "application/json" && !strings.HasSuffix(t, "+json") {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return d.validate(at+"/content/"+escape(t)+"/schema", value)
}

func (d *Document) validate(pointer string, value any) error {
	d.mu.Lock() // The compiler isn't safe for concurrent use.
	schema, err := d.compiler.Compile(name + "#" + pointer)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// find returns the path of the document that fits one of a request: the one with the most
// segments, and of those the one with the fewest names. What a name stands for may have
// slashes if the name is the last segment.
func (d *Document) find(requested, method string) (path string, ok bool) {
	best := 0
	for pattern, item := range object(d.root["paths"]) {
		if object(item)[method] == nil || !fits(pattern, requested) {
			continue
		}
		if rank := 100*strings.Count(pattern, "/") - strings.Count(pattern, "{"); !ok || rank > best {
			path, best, ok = pattern, rank, true
		}
	}
	return path, ok
}

func fits(pattern, requested string) bool {
	wants, gots := strings.Split(pattern, "/"), strings.Split(requested, "/")
	last := len(wants) - 1
	if strings.HasPrefix(wants[last], "{") && len(gots) > len(wants) {
		gots = append(gots[:last:last], strings.Join(gots[last:], "/"))
	}
	if len(wants) != len(gots) {
		return false
	}
	for i, want := range wants {
		got, err := url.PathUnescape(gots[i])
		if err != nil || got != want && (got == "" || !strings.HasPrefix(want, "{")) {
			return false
		}
	}
	return true
}

// resolve follows a $ref within the document, and says where the object is.
func (d *Document) resolve(v any, at string) (map[string]any, string) {
	o := object(v)
	target, ok := o["$ref"].(string)
	if !ok {
		return o, at
	}
	at = strings.TrimPrefix(target, "#")
	o = d.root
	for _, step := range strings.Split(at, "/")[1:] {
		o = object(o[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)])
	}
	return o, at
}

func object(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// escape makes a step of a JSON Pointer. (RFC 6901), in a URL.
func escape(s string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
}
