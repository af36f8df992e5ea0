package opcuabridge

import (
	"context"
	"fmt"
	"slices"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

const (
	// treeDepthMax is how deep a tree is looked at: servers have loops, and names that grow.
	treeDepthMax = 32
	// browseNodes is how many nodes are browsed in a request.
	browseNodes = 50
)

// found is the root of a mapping at the server.
type found struct {
	node  *ua.NodeID
	names []string
	err   error
}

// resolve returns the nodes of all mappings, and which of them can't be found. An error is one of the connection.
func (l *link) resolve(ctx context.Context, c *client) (items []*item, failures []failure, err error) {
	roots, err := l.roots(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	for i := range l.endpoint.Mappings {
		m, root := &l.endpoint.Mappings[i], roots[i]
		if root.err != nil {
			failures = append(failures, failure{m.Node + m.Path + m.Tree, root.err.Error()})
			continue
		}
		nodes := []place{{names: root.names, node: portable(root.node, l.namespaces)}}
		ids := []*ua.NodeID{root.node}
		if m.Tree != "" {
			if nodes, ids, err = l.tree(ctx, c, root); err != nil {
				return nil, nil, err
			}
			if len(ids) == 0 {
				failures = append(failures, failure{m.Tree, "it has no variables"})
			}
		}
		for k := range ids {
			if len(items) >= l.endpoint.ItemsMax {
				return items, append(failures, failure{m.Node + m.Path + m.Tree, fmt.Sprintf("there are more than %d items: allowed: ItemsMax", l.endpoint.ItemsMax)}), nil
			}
			items = append(items, newItem(i, m, ids[k], nodes[k]))
		}
	}
	return items, failures, nil
}

func newItem(mapping int, m *Mapping, node *ua.NodeID, p place) *item {
	it := &item{key: itemKey{mapping, p.node}, mapping: m, node: node, place: p}
	if m.topic != nil {
		it.topic = m.topic.expand(&p)
	}
	if m.writeTopic != nil {
		it.writeTopic = m.writeTopic.expand(&p)
	}
	return it
}

// roots finds what mappings name.
func (l *link) roots(ctx context.Context, c *client) ([]found, error) {
	all := make([]found, len(l.endpoint.Mappings))
	var byID, byPath []int
	for i := range l.endpoint.Mappings {
		m := &l.endpoint.Mappings[i]
		if m.path != nil {
			byPath = append(byPath, i)
			continue
		}
		if all[i].node, all[i].err = m.root.in(l.namespaces); all[i].err == nil {
			byID = append(byID, i)
		}
	}
	ids := make([]*ua.NodeID, len(byID))
	for k, i := range byID {
		ids[k] = all[i].node
	}
	names, err := l.read(ctx, c, ids, ua.AttributeIDBrowseName)
	if err != nil {
		return nil, err
	}
	for k, i := range byID {
		name, ok := valueOf(names[k]).(*ua.QualifiedName)
		switch {
		case names[k] != nil && isBad(names[k].Status):
			all[i].err = names[k].Status
		case !ok || name == nil:
			all[i].err = errResponse
		default:
			all[i].names = []string{name.Name}
		}
		if all[i].err != nil {
			all[i].err = fmt.Errorf("%s", describe(all[i].err))
		}
	}
	for some := range slices.Chunk(byPath, operationsMax) {
		if err := l.follow(ctx, c, some, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// follow follows browse paths.
func (l *link) follow(ctx context.Context, c *client, mappings []int, all []found) error {
	req := &ua.TranslateBrowsePathsToNodeIDsRequest{}
	var asked []int
	for _, i := range mappings {
		path := &ua.RelativePath{}
		for _, s := range l.endpoint.Mappings[i].path {
			index, err := s.space.indexIn(l.namespaces)
			if err != nil {
				all[i].err = err
				break
			}
			path.Elements = append(path.Elements, &ua.RelativePathElement{
				ReferenceTypeID: ua.NewNumericNodeID(0, id.HierarchicalReferences), IncludeSubtypes: true,
				TargetName: &ua.QualifiedName{NamespaceIndex: index, Name: s.name},
			})
			if len(path.Elements) > 1 || s.name != "Objects" { // which says nothing, since all begin with it
				all[i].names = append(all[i].names, s.name)
			}
		}
		if len(all[i].names) == 0 {
			all[i].names = []string{"Objects"}
		}
		if all[i].err == nil {
			asked = append(asked, i)
			req.BrowsePaths = append(req.BrowsePaths, &ua.BrowsePath{StartingNode: ua.NewNumericNodeID(0, id.RootFolder), RelativePath: path})
		}
	}
	if len(asked) == 0 {
		return nil
	}
	res, err := send[ua.TranslateBrowsePathsToNodeIDsResponse](ctx, c, l.endpoint.RequestTimeout, req)
	if err != nil {
		return err
	}
	if len(res.Results) != len(asked) {
		return errResponse
	}
	for k, i := range asked {
		r := res.Results[k]
		switch {
		case isBad(r.StatusCode):
			all[i].err = fmt.Errorf("%s", statusName(r.StatusCode))
		case len(r.Targets) == 0 || r.Targets[0].TargetID == nil || r.Targets[0].TargetID.NodeID == nil:
			all[i].err = fmt.Errorf("%s", statusName(ua.StatusBadNoMatch))
		default:
			all[i].node = ua.NewNodeIDFromExpandedNodeID(r.Targets[0].TargetID)
		}
	}
	return nil
}

// branch is a node whose children are still to be asked for.
type branch struct {
	node  *ua.NodeID
	names []string
}

// tree returns the variables below a node, or the node itself if it is one and has none. Properties, and what servers
// say of themselves, are left out.
func (l *link) tree(ctx context.Context, c *client, root found) (places []place, nodes []*ua.NodeID, err error) {
	seen := map[string]bool{root.node.String(): true, fmt.Sprintf("i=%d", id.Server): true}
	open := []branch{{node: root.node}}
	for depth := 0; len(open) > 0 && depth < treeDepthMax; depth++ {
		var next []branch
		for some := range slices.Chunk(open, browseNodes) {
			children, err := l.browse(ctx, c, some)
			if err != nil {
				return nil, nil, err
			}
			for k, refs := range children {
				for _, r := range refs {
					node := ua.NewNodeIDFromExpandedNodeID(r.NodeID)
					if key := node.String(); seen[key] {
						continue
					} else {
						seen[key] = true
					}
					names := append(slices.Clip(some[k].names), r.BrowseName.Name)
					next = append(next, branch{node, names})
					if r.NodeClass == ua.NodeClassVariable {
						places = append(places, place{names: names, node: portable(node, l.namespaces)})
						nodes = append(nodes, node)
					}
				}
			}
			if len(nodes) > l.endpoint.ItemsMax || len(seen) > 10*l.endpoint.ItemsMax {
				return places, nodes, nil
			}
		}
		open = next
	}
	if len(nodes) > 0 {
		return places, nodes, nil
	}
	class, err := l.read(ctx, c, []*ua.NodeID{root.node}, ua.AttributeIDNodeClass)
	if err != nil {
		return nil, nil, err
	}
	if n, ok := valueOf(class[0]).(int32); ok && ua.NodeClass(n) == ua.NodeClassVariable {
		return []place{{names: root.names, node: portable(root.node, l.namespaces)}}, []*ua.NodeID{root.node}, nil
	}
	return nil, nil, nil
}

// browse returns the objects and variables that nodes have.
func (l *link) browse(ctx context.Context, c *client, nodes []branch) ([][]*ua.ReferenceDescription, error) {
	req := &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}}
	for _, n := range nodes {
		req.NodesToBrowse = append(req.NodesToBrowse, &ua.BrowseDescription{
			NodeID: n.node, BrowseDirection: ua.BrowseDirectionForward, ReferenceTypeID: ua.NewNumericNodeID(0, id.HierarchicalReferences), IncludeSubtypes: true,
			NodeClassMask: uint32(ua.NodeClassObject | ua.NodeClassVariable), ResultMask: uint32(ua.BrowseResultMaskAll),
		})
	}
	res, err := send[ua.BrowseResponse](ctx, c, l.endpoint.RequestTimeout, req)
	if err != nil {
		return nil, err
	}
	if len(res.Results) != len(nodes) {
		return nil, errResponse
	}
	all := make([][]*ua.ReferenceDescription, len(nodes))
	for i, r := range res.Results {
		for n := 0; ; n += len(r.References) {
			for _, ref := range r.References {
				if ref == nil || ref.NodeID == nil || ref.NodeID.NodeID == nil || ref.BrowseName == nil || ref.NodeID.HasServerIndex() && ref.NodeID.ServerIndex > 0 {
					continue
				}
				if t := ref.ReferenceTypeID; t == nil || t.Namespace() != 0 || t.IntID() != id.HasProperty {
					all[i] = append(all[i], ref)
				}
			}
			if len(r.ContinuationPoint) == 0 || n > 10*l.endpoint.ItemsMax {
				break
			}
			more, err := send[ua.BrowseNextResponse](ctx, c, l.endpoint.RequestTimeout, &ua.BrowseNextRequest{ContinuationPoints: [][]byte{r.ContinuationPoint}})
			if err != nil {
				return nil, err
			}
			if len(more.Results) != 1 {
				return nil, errResponse
			}
			r = more.Results[0]
		}
	}
	return all, nil
}
