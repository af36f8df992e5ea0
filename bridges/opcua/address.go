package opcuabridge

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gopcua/opcua/ua"
)

// errAddress is returned for what names no node.
var errAddress = errors.New("allowed: nsu=URI;s=NAME, ns=PREFIX;i=NUMBER, i=NUMBER, or g= or b= in place of s=, or a path such as /Objects/PREFIX:Name")

// errNoNamespace: the server has no namespace with that URI.
var errNoNamespace = errors.New("the server has no such namespace")

// idLengthMax is the longest identifier that the standard allows (OPC 10000-3, 8.2).
const idLengthMax = 4096

// namespace is one by its URI, or by its index if it has no URI.
type namespace struct {
	uri   string
	index uint16
}

// indexIn returns the index at a server whose NamespaceArray is all.
func (n namespace) indexIn(all []string) (uint16, error) {
	if n.uri == "" {
		return n.index, nil
	}
	i := slices.Index(all, n.uri)
	if i < 0 || i > 0xffff {
		return 0, fmt.Errorf("%w: %q", errNoNamespace, n.uri)
	}
	return uint16(i), nil
}

// nodeRef is a node id whose namespace has no index yet, since that is another one at each start of some servers.
type nodeRef struct {
	space   namespace
	kind    byte   // i, s, g, b
	number  uint32 // i
	text    string // s, g
	opaque  []byte // b
	present bool
}

// parseNodeID reads a node id in the form of OPC 10000-6, 5.3.1.10, where ns= takes a prefix too.
func parseNodeID(text string, prefixes map[string]string) (nodeRef, error) {
	r := nodeRef{present: true}
	rest := text
	switch {
	case strings.HasPrefix(rest, "nsu="):
		uri, after, ok := strings.Cut(rest[len("nsu="):], ";")
		if !ok || uri == "" {
			return nodeRef{}, errAddress
		}
		// What a URI must not contain here is escaped.
		r.space.uri = strings.NewReplacer("%3B", ";", "%3b", ";", "%25", "%").Replace(uri)
		rest = after
	case strings.HasPrefix(rest, "ns="):
		name, after, ok := strings.Cut(rest[len("ns="):], ";")
		if !ok {
			return nodeRef{}, errAddress
		}
		var err error
		if r.space, err = parseNamespace(name, prefixes); err != nil {
			return nodeRef{}, err
		}
		rest = after
	}
	if len(rest) < 2 || rest[1] != '=' || len(rest) > idLengthMax || !utf8.ValidString(text) {
		return nodeRef{}, errAddress
	}
	id := rest[2:]
	r.kind = rest[0]
	switch r.kind {
	case 'i':
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nodeRef{}, errAddress
		}
		r.number = uint32(n)
	case 's':
		r.text = id
	case 'g':
		if !isGUID(id) {
			return nodeRef{}, errAddress
		}
		r.text = id
	case 'b':
		b, err := base64.StdEncoding.DecodeString(id)
		if err != nil {
			return nodeRef{}, errAddress
		}
		r.opaque = b
	default:
		return nodeRef{}, errAddress
	}
	return r, nil
}

// parseNamespace reads an index or a prefix.
func parseNamespace(name string, prefixes map[string]string) (namespace, error) {
	if n, err := strconv.ParseUint(name, 10, 16); err == nil {
		return namespace{index: uint16(n)}, nil
	}
	uri, ok := prefixes[name]
	if !ok {
		return namespace{}, fmt.Errorf("%q is no prefix of Namespaces: %w", name, errAddress)
	}
	return namespace{uri: uri}, nil
}

// isGUID reports whether text is one as in 72962B91-FA75-4AE6-8D28-B404DC7DAF63.
func isGUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i := range len(text) {
		c := text[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

// in returns the node id at a server with these namespaces.
func (r *nodeRef) in(namespaces []string) (*ua.NodeID, error) {
	index, err := r.space.indexIn(namespaces)
	if err != nil {
		return nil, err
	}
	switch r.kind {
	case 'i':
		return ua.NewNumericNodeID(index, r.number), nil
	case 's':
		return ua.NewStringNodeID(index, r.text), nil
	case 'g':
		return ua.NewGUIDNodeID(index, r.text), nil
	}
	return ua.NewByteStringNodeID(index, r.opaque), nil
}

// step is an element of a browse path.
type step struct {
	space namespace
	name  string
}

// parsePath reads a browse path from the root of a server, such as /Objects/plant:Boiler. What stands behind & is part
// of a name, though it is a slash, a colon or a & (OPC 10000-4, A.2).
func parsePath(text string, prefixes map[string]string) ([]step, error) {
	if !strings.HasPrefix(text, "/") || len(text) < 2 || len(text) > idLengthMax || !utf8.ValidString(text) {
		return nil, errAddress
	}
	var steps []step
	var s step
	var name strings.Builder
	begun := false // a prefix was read
	end := func() error {
		if name.Len() == 0 {
			return errAddress
		}
		s.name = name.String()
		steps = append(steps, s)
		s, begun = step{}, false
		name.Reset()
		return nil
	}
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '&':
			if i++; i == len(text) {
				return nil, errAddress
			}
			name.WriteByte(text[i])
		case c == '/':
			if err := end(); err != nil {
				return nil, err
			}
		case c == ':' && !begun:
			var err error
			if s.space, err = parseNamespace(name.String(), prefixes); err != nil {
				return nil, err
			}
			begun = true
			name.Reset()
		default:
			name.WriteByte(c)
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	return steps, nil
}

// portable returns a node id as text that means the same after a server's namespaces have moved.
func portable(id *ua.NodeID, namespaces []string) string {
	text := id.String()
	if id.Namespace() == 0 {
		return text
	}
	_, rest, found := strings.Cut(text, ";")
	if !found || int(id.Namespace()) >= len(namespaces) || namespaces[id.Namespace()] == "" {
		return text
	}
	return "nsu=" + strings.NewReplacer("%", "%25", ";", "%3B").Replace(namespaces[id.Namespace()]) + ";" + rest
}
