package opcuaserver

import (
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

const (
	// continuationsMax bounds what a session keeps of Browse, referencesMax what one node gives at once.
	continuationsMax = 10
	referencesMax    = 1000
	// pathMax bounds a browse path.
	pathMax = 100
	// looksMax is how many times a request may have the server look at each node: others wait meanwhile.
	looksMax = 10
)

// reference leads from a node to another.
type reference struct {
	kind    uint32
	forward bool
	to      *node
}

// continuation is what is left of a Browse.
type continuation struct {
	id   []byte
	left []reference
	mask uint32
	most int
}

// references returns those of a node.
func (s *server) referencesLocked(n *node) (all []reference) {
	for _, c := range n.sorted() {
		all = append(all, reference{c.by, true, c})
	}
	if d := s.mu.space.nodes[name{number: n.definition}]; n.definition != 0 && d != nil {
		all = append(all, reference{id.HasTypeDefinition, true, d})
	}
	if n.parent != nil {
		all = append(all, reference{n.by, false, n.parent})
	}
	return all
}

// isA reports whether a type is another one, or a subtype of it.
func (s *server) isALocked(kind uint32, of uint32) bool {
	for n := s.mu.space.nodes[name{number: kind}]; n != nil && n.class == ua.NodeClassReferenceType; n = n.parent {
		if n.name.number == of {
			return true
		}
	}
	return false
}

// browse follows references. [OPC 10000-4, 5.8.2]
func (s *server) browse(ss *session, q *ua.BrowseRequest) (ua.Response, error) {
	if err := several(len(q.NodesToBrowse)); err != nil {
		return nil, err
	}
	if v := q.View; v != nil && v.ViewID != nil && (v.ViewID.IntID() != 0 || v.ViewID.Namespace() != 0) {
		return nil, ua.StatusBadViewIDUnknown
	}
	most := referencesMax
	if n := q.RequestedMaxReferencesPerNode; n > 0 && n < referencesMax {
		most = int(n)
	}
	r := &ua.BrowseResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	s.mu.Lock()
	defer s.mu.Unlock()
	budget, looks := responseMax, s.looksLocked()
	for _, d := range q.NodesToBrowse {
		if n := s.mu.space.find(d.NodeID); n != nil {
			looks -= len(n.children)
		}
		if looks < 0 {
			return nil, ua.StatusBadTooManyOperations
		}
		result := s.browseOneLocked(ss, d, most)
		if budget -= sizeOf(result); budget < 0 {
			return nil, ua.StatusBadResponseTooLarge
		}
		r.Results = append(r.Results, result)
	}
	return r, nil
}

// looksLocked is how many children of nodes a request may have looked at.
func (s *server) looksLocked() int { return looksMax * len(s.mu.space.nodes) }

// sizeOf is about as large as a result is.
func sizeOf(r *ua.BrowseResult) (n int) {
	for _, f := range r.References {
		n += 64 + len(f.BrowseName.Name) + len(f.DisplayName.Text) + len(f.NodeID.NodeID.StringID())
	}
	return n
}

func (s *server) browseOneLocked(ss *session, d *ua.BrowseDescription, most int) *ua.BrowseResult {
	n := s.mu.space.find(d.NodeID)
	if n == nil {
		return &ua.BrowseResult{StatusCode: ua.StatusBadNodeIDUnknown}
	}
	if d.BrowseDirection > ua.BrowseDirectionBoth {
		return &ua.BrowseResult{StatusCode: ua.StatusBadBrowseDirectionInvalid}
	}
	kind, any := uint32(0), true
	if t, ok := nameOf(d.ReferenceTypeID); !ok || t != (name{}) {
		if of := s.mu.space.nodes[t]; !ok || of == nil || of.class != ua.NodeClassReferenceType {
			return &ua.BrowseResult{StatusCode: ua.StatusBadReferenceTypeIDInvalid}
		}
		kind, any = t.number, false
	}
	var found []reference
	for _, f := range s.referencesLocked(n) {
		switch {
		case f.forward && d.BrowseDirection == ua.BrowseDirectionInverse, !f.forward && d.BrowseDirection == ua.BrowseDirectionForward:
		case d.NodeClassMask != 0 && d.NodeClassMask&uint32(f.to.class) == 0:
		case !any && f.kind != kind && (!d.IncludeSubtypes || !s.isALocked(f.kind, kind)):
		default:
			found = append(found, f)
		}
	}
	return s.resultLocked(ss, found, d.ResultMask, most)
}

// resultLocked returns as many references as may be at once, and keeps the others.
func (s *server) resultLocked(ss *session, found []reference, mask uint32, most int) *ua.BrowseResult {
	r := &ua.BrowseResult{}
	if len(found) > most {
		if len(ss.continuations) >= continuationsMax {
			r.StatusCode = ua.StatusBadNoContinuationPoints
			return r
		}
		c := &continuation{id: random(), left: found[most:], mask: mask, most: most}
		ss.continuations = append(ss.continuations, c)
		r.ContinuationPoint, found = c.id, found[:most]
	}
	for _, f := range found {
		r.References = append(r.References, described1(&f, mask))
	}
	return r
}

// described1 is a reference as a client sees it, with what it has asked for.
func described1(f *reference, mask uint32) *ua.ReferenceDescription {
	r := &ua.ReferenceDescription{
		ReferenceTypeID: ua.NewTwoByteNodeID(0), NodeID: &ua.ExpandedNodeID{NodeID: f.to.id()}, BrowseName: &ua.QualifiedName{},
		DisplayName: &ua.LocalizedText{}, TypeDefinition: &ua.ExpandedNodeID{NodeID: ua.NewTwoByteNodeID(0)},
	}
	has := func(bit ua.BrowseResultMask) bool { return mask&uint32(bit) != 0 }
	if has(ua.BrowseResultMaskReferenceTypeID) {
		r.ReferenceTypeID = ua.NewNumericNodeID(0, f.kind)
	}
	if has(ua.BrowseResultMaskIsForward) {
		r.IsForward = f.forward
	}
	if has(ua.BrowseResultMaskNodeClass) {
		r.NodeClass = f.to.class
	}
	if has(ua.BrowseResultMaskBrowseName) {
		r.BrowseName = &ua.QualifiedName{NamespaceIndex: f.to.browseNS, Name: f.to.browse}
	}
	if has(ua.BrowseResultMaskDisplayName) {
		r.DisplayName = ua.NewLocalizedText(f.to.browse)
	}
	if has(ua.BrowseResultMaskTypeDefinition) && f.to.definition != 0 {
		r.TypeDefinition = &ua.ExpandedNodeID{NodeID: ua.NewNumericNodeID(0, f.to.definition)}
	}
	return r
}

func (s *server) browseNext(ss *session, q *ua.BrowseNextRequest) (ua.Response, error) {
	if err := several(len(q.ContinuationPoints)); err != nil {
		return nil, err
	}
	r := &ua.BrowseNextResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, point := range q.ContinuationPoints {
		result := &ua.BrowseResult{StatusCode: ua.StatusBadContinuationPointInvalid}
		for i, c := range ss.continuations {
			if string(c.id) != string(point) {
				continue
			}
			ss.continuations = append(ss.continuations[:i:i], ss.continuations[i+1:]...)
			if result = (&ua.BrowseResult{}); !q.ReleaseContinuationPoints {
				result = s.resultLocked(ss, c.left, c.mask, c.most)
			}
			break
		}
		r.Results = append(r.Results, result)
	}
	return r, nil
}

// translate follows browse names. [OPC 10000-4, 5.8.4]
func (s *server) translate(q *ua.TranslateBrowsePathsToNodeIDsRequest) (ua.Response, error) {
	if err := several(len(q.BrowsePaths)); err != nil {
		return nil, err
	}
	r := &ua.TranslateBrowsePathsToNodeIDsResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	s.mu.Lock()
	defer s.mu.Unlock()
	looks := s.looksLocked()
	for _, p := range q.BrowsePaths {
		n, status := s.followLocked(p, &looks)
		if looks < 0 {
			return nil, ua.StatusBadTooManyOperations
		}
		result := &ua.BrowsePathResult{StatusCode: status}
		if status == ua.StatusOK {
			result.Targets = []*ua.BrowsePathTarget{{TargetID: &ua.ExpandedNodeID{NodeID: n.id()}, RemainingPathIndex: ^uint32(0)}}
		}
		r.Results = append(r.Results, result)
	}
	return r, nil
}

// followLocked takes what it looks at from looks, and ends early when that is less than nothing.
func (s *server) followLocked(p *ua.BrowsePath, looks *int) (*node, ua.StatusCode) {
	n := s.mu.space.find(p.StartingNode)
	switch {
	case n == nil:
		return nil, ua.StatusBadNodeIDUnknown
	case p.RelativePath == nil || len(p.RelativePath.Elements) == 0:
		return nil, ua.StatusBadNothingToDo
	case len(p.RelativePath.Elements) > pathMax:
		return nil, ua.StatusBadTooManyOperations
	}
	for _, e := range p.RelativePath.Elements {
		if e.TargetName.Name == "" {
			return nil, ua.StatusBadBrowseNameInvalid
		}
		next := n.parent
		if !e.IsInverse {
			if *looks -= len(n.children); *looks < 0 {
				return nil, ua.StatusBadTooManyOperations
			}
			next = nil
			for _, c := range n.children {
				if c.browse == e.TargetName.Name && c.browseNS == e.TargetName.NamespaceIndex && s.leadsLocked(c.by, e) {
					next = c
				}
			}
		} else if next != nil && (next.browse != e.TargetName.Name || next.browseNS != e.TargetName.NamespaceIndex || !s.leadsLocked(n.by, e)) {
			next = nil
		}
		if n = next; n == nil {
			return nil, ua.StatusBadNoMatch
		}
	}
	return n, ua.StatusOK
}

// leadsLocked reports whether an element of a path goes by a kind of reference.
func (s *server) leadsLocked(kind uint32, e *ua.RelativePathElement) bool {
	t, ok := nameOf(e.ReferenceTypeID)
	return ok && (t == (name{}) || t.ns == 0 && (t.number == kind || e.IncludeSubtypes && s.isALocked(kind, t.number)))
}
