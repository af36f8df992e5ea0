package opcuaserver

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// The namespaces, by their indexes.
const (
	nsStandard = iota
	nsServer
	nsTopics // variables: the id is the Topic Name
	nsLevels // folders: the id is what their topics begin with
)

// The URIs of the namespaces of topics and of their levels.
const (
	TopicsURI = "urn:loopmq:topics"
	LevelsURI = "urn:loopmq:levels"
)

// emptyLevel is what a level without a name is called.
const emptyLevel = "(empty)"

// name is an id of a node.
type name struct {
	ns     uint16
	number uint32
	text   string
}

// node is one of the address space. The server's lock guards what changes.
type node struct {
	name       name
	class      ua.NodeClass
	browse     string
	browseNS   uint16
	definition uint32 // the number of its type definition; 0: none
	abstract   bool

	parent    *node
	by        uint32 // the reference from the parent
	children  map[name]*node
	dataType  uint32
	rank      int32
	get       func() any // a variable of the server
	value     *ua.DataValue
	items     map[*item]struct{}
	perSecond bool // its value changes by itself
	gone      bool // the topic is no more, but items wait for it
}

func (n *node) id() *ua.NodeID {
	if n.name.ns == nsTopics || n.name.ns == nsLevels {
		return ua.NewStringNodeID(n.name.ns, n.name.text)
	}
	if n.name.ns == nsStandard && n.name.number < 1<<16 {
		return ua.NewFourByteNodeID(0, uint16(n.name.number))
	}
	return ua.NewNumericNodeID(n.name.ns, n.name.number)
}

// isTopic reports whether the node is a topic's variable.
func (n *node) isTopic() bool { return n.name.ns == nsTopics }

// nameOf is the name that an id has; ok is false if no node has one like it.
func nameOf(i *ua.NodeID) (n name, ok bool) {
	switch i.Type() {
	case ua.NodeIDTypeTwoByte, ua.NodeIDTypeFourByte, ua.NodeIDTypeNumeric:
		return name{ns: i.Namespace(), number: i.IntID()}, true
	case ua.NodeIDTypeString:
		return name{ns: i.Namespace(), text: i.StringID()}, true
	}
	return name{}, false
}

// space is the address space.
type space struct {
	nodes  map[name]*node
	topics *node // the folder of all topics
}

// find returns the node with an id; nil: there is none.
func (sp *space) find(i *ua.NodeID) *node {
	n, ok := nameOf(i)
	if !ok {
		return nil
	}
	return sp.nodes[n]
}

func (sp *space) add(n *node) *node {
	sp.nodes[n.name] = n
	if n.parent != nil {
		if n.parent.children == nil {
			n.parent.children = make(map[name]*node)
		}
		n.parent.children[n.name] = n
	}
	return n
}

// topic returns the variable of a topic, and makes it if there is none.
func (sp *space) topic(topic string) *node {
	if n := sp.nodes[name{ns: nsTopics, text: topic}]; n != nil {
		return n
	}
	folder, from := sp.topics, 0
	for {
		end := strings.IndexByte(topic[from:], '/')
		if end < 0 {
			break
		}
		n := name{ns: nsLevels, text: topic[:from+end]}
		next := sp.nodes[n]
		if next == nil {
			next = sp.add(&node{
				name: n, class: ua.NodeClassObject, browse: cmp.Or(topic[from:from+end], emptyLevel), browseNS: nsLevels, definition: id.FolderType, parent: folder, by: id.Organizes,
			})
		}
		folder, from = next, from+end+1
	}
	return sp.add(&node{
		name: name{ns: nsTopics, text: topic}, class: ua.NodeClassVariable, browse: cmp.Or(topic[from:], emptyLevel), browseNS: nsTopics,
		definition: id.BaseDataVariableType, parent: folder, by: id.Organizes, dataType: id.BaseDataType, rank: -1,
		value: &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadWaitingForInitialData},
	})
}

// remove takes a variable away, and the folders that are empty then.
func (sp *space) remove(n *node) {
	for n != sp.topics && len(n.children) == 0 && sp.nodes[n.name] == n {
		delete(sp.nodes, n.name)
		delete(n.parent.children, n.name)
		n = n.parent
	}
}

// sorted returns the children in an order that stays.
func (n *node) sorted() []*node {
	all := make([]*node, 0, len(n.children))
	for _, c := range n.children {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.browse, b.browse), cmp.Compare(a.name.ns, b.name.ns), cmp.Compare(a.name.number, b.name.number))
	})
	return all
}

// newSpace returns the nodes of the standard that a client looks for, and the folder of topics.
func (s *server) newSpace() space {
	sp := space{nodes: make(map[name]*node)}
	for _, d := range standard {
		n := &node{name: name{number: d.id}, class: d.class, browse: d.name, definition: d.definition, by: d.by, abstract: d.abstract, dataType: d.dataType, rank: -1}
		if d.by != 0 {
			n.parent = sp.nodes[name{number: d.parent}]
		}
		if d.get != nil {
			n.get = func() any { return d.get(s) }
			if n.perSecond = d.id == id.Server_ServerStatus || d.id == id.Server_ServerStatus_CurrentTime; d.list {
				n.rank = 1
			}
		}
		sp.add(n)
	}
	sp.topics = sp.add(&node{
		name: name{ns: nsServer, number: 1}, class: ua.NodeClassObject, browse: "Topics", browseNS: nsServer, definition: id.FolderType,
		parent: sp.nodes[name{number: id.ObjectsFolder}], by: id.Organizes,
	})
	return sp
}

// describes a node of the standard.
type described struct {
	parent, by uint32
	id         uint32
	class      ua.NodeClass
	name       string
	definition uint32
	dataType   uint32
	list       bool
	abstract   bool
	get        func(*server) any
}

func object(parent, by, number uint32, name string, definition uint32) described {
	return described{parent: parent, by: by, id: number, class: ua.NodeClassObject, name: name, definition: definition}
}

func subtype(class ua.NodeClass, parent, number uint32, name string) described {
	return described{parent: parent, by: id.HasSubtype, id: number, class: class, name: name}
}

func abstract(d described) described {
	d.abstract = true
	return d
}

func organized(d described) described {
	d.by = id.Organizes
	return d
}

func property(parent, number uint32, name string, dataType uint32, get func(*server) any) described {
	return described{parent: parent, by: id.HasProperty, id: number, class: ua.NodeClassVariable, name: name, definition: id.PropertyType, dataType: dataType, get: get}
}

func listed(d described) described {
	d.list = true
	return d
}

func component(parent, number uint32, name string, definition, dataType uint32, get func(*server) any) described {
	return described{parent: parent, by: id.HasComponent, id: number, class: ua.NodeClassVariable, name: name, definition: definition, dataType: dataType, get: get}
}

func operations(*server) any { return uint32(operationsMax) }

// standard are the nodes of OPC 10000-5 that there are, each behind its parent.
var standard = []described{
	object(0, 0, id.RootFolder, "Root", id.FolderType),
	object(id.RootFolder, id.Organizes, id.ObjectsFolder, "Objects", id.FolderType),
	object(id.RootFolder, id.Organizes, id.TypesFolder, "Types", id.FolderType),
	object(id.RootFolder, id.Organizes, id.ViewsFolder, "Views", id.FolderType),
	object(id.TypesFolder, id.Organizes, id.ObjectTypesFolder, "ObjectTypes", id.FolderType),
	object(id.TypesFolder, id.Organizes, id.VariableTypesFolder, "VariableTypes", id.FolderType),
	object(id.TypesFolder, id.Organizes, id.DataTypesFolder, "DataTypes", id.FolderType),
	object(id.TypesFolder, id.Organizes, id.ReferenceTypesFolder, "ReferenceTypes", id.FolderType),

	organized(subtype(ua.NodeClassObjectType, id.ObjectTypesFolder, id.BaseObjectType, "BaseObjectType")),
	subtype(ua.NodeClassObjectType, id.BaseObjectType, id.FolderType, "FolderType"),
	subtype(ua.NodeClassObjectType, id.BaseObjectType, id.ServerType, "ServerType"),
	subtype(ua.NodeClassObjectType, id.BaseObjectType, id.ServerCapabilitiesType, "ServerCapabilitiesType"),
	subtype(ua.NodeClassObjectType, id.FolderType, id.OperationLimitsType, "OperationLimitsType"),

	abstract(organized(subtype(ua.NodeClassVariableType, id.VariableTypesFolder, id.BaseVariableType, "BaseVariableType"))),
	subtype(ua.NodeClassVariableType, id.BaseVariableType, id.BaseDataVariableType, "BaseDataVariableType"),
	subtype(ua.NodeClassVariableType, id.BaseVariableType, id.PropertyType, "PropertyType"),
	subtype(ua.NodeClassVariableType, id.BaseDataVariableType, id.ServerStatusType, "ServerStatusType"),
	subtype(ua.NodeClassVariableType, id.BaseDataVariableType, id.BuildInfoType, "BuildInfoType"),

	abstract(organized(subtype(ua.NodeClassDataType, id.DataTypesFolder, id.BaseDataType, "BaseDataType"))),
	subtype(ua.NodeClassDataType, id.BaseDataType, id.Boolean, "Boolean"),
	subtype(ua.NodeClassDataType, id.BaseDataType, id.String, "String"),
	subtype(ua.NodeClassDataType, id.String, id.LocaleID, "LocaleId"),
	subtype(ua.NodeClassDataType, id.BaseDataType, id.ByteString, "ByteString"),
	subtype(ua.NodeClassDataType, id.BaseDataType, id.DateTime, "DateTime"),
	subtype(ua.NodeClassDataType, id.DateTime, id.UtcTime, "UtcTime"),
	subtype(ua.NodeClassDataType, id.BaseDataType, id.LocalizedText, "LocalizedText"),
	abstract(subtype(ua.NodeClassDataType, id.BaseDataType, id.Number, "Number")),
	abstract(subtype(ua.NodeClassDataType, id.Number, id.Integer, "Integer")),
	subtype(ua.NodeClassDataType, id.Integer, id.Int64, "Int64"),
	abstract(subtype(ua.NodeClassDataType, id.Number, id.UInteger, "UInteger")),
	subtype(ua.NodeClassDataType, id.UInteger, id.Byte, "Byte"),
	subtype(ua.NodeClassDataType, id.UInteger, id.UInt16, "UInt16"),
	subtype(ua.NodeClassDataType, id.UInteger, id.UInt32, "UInt32"),
	subtype(ua.NodeClassDataType, id.Number, id.Double, "Double"),
	subtype(ua.NodeClassDataType, id.Double, id.Duration, "Duration"),
	abstract(subtype(ua.NodeClassDataType, id.BaseDataType, id.Enumeration, "Enumeration")),
	subtype(ua.NodeClassDataType, id.Enumeration, id.ServerState, "ServerState"),
	abstract(subtype(ua.NodeClassDataType, id.BaseDataType, id.Structure, "Structure")),
	subtype(ua.NodeClassDataType, id.Structure, id.ServerStatusDataType, "ServerStatusDataType"),
	subtype(ua.NodeClassDataType, id.Structure, id.BuildInfo, "BuildInfo"),

	abstract(organized(subtype(ua.NodeClassReferenceType, id.ReferenceTypesFolder, id.References, "References"))),
	abstract(subtype(ua.NodeClassReferenceType, id.References, id.HierarchicalReferences, "HierarchicalReferences")),
	abstract(subtype(ua.NodeClassReferenceType, id.References, id.NonHierarchicalReferences, "NonHierarchicalReferences")),
	subtype(ua.NodeClassReferenceType, id.HierarchicalReferences, id.Organizes, "Organizes"),
	abstract(subtype(ua.NodeClassReferenceType, id.HierarchicalReferences, id.HasChild, "HasChild")),
	abstract(subtype(ua.NodeClassReferenceType, id.HasChild, id.Aggregates, "Aggregates")),
	subtype(ua.NodeClassReferenceType, id.HasChild, id.HasSubtype, "HasSubtype"),
	subtype(ua.NodeClassReferenceType, id.Aggregates, id.HasComponent, "HasComponent"),
	subtype(ua.NodeClassReferenceType, id.Aggregates, id.HasProperty, "HasProperty"),
	subtype(ua.NodeClassReferenceType, id.NonHierarchicalReferences, id.HasTypeDefinition, "HasTypeDefinition"),

	object(id.ObjectsFolder, id.Organizes, id.Server, "Server", id.ServerType),
	listed(property(id.Server, id.Server_ServerArray, "ServerArray", id.String, func(s *server) any { return []string{s.setup.ApplicationURI} })),
	listed(property(id.Server, id.Server_NamespaceArray, "NamespaceArray", id.String, func(s *server) any {
		return []string{"http://opcfoundation.org/UA/", s.setup.ApplicationURI, TopicsURI, LevelsURI}
	})),
	property(id.Server, id.Server_ServiceLevel, "ServiceLevel", id.Byte, func(*server) any { return byte(255) }),
	property(id.Server, id.Server_Auditing, "Auditing", id.Boolean, func(*server) any { return false }),
	component(id.Server, id.Server_ServerStatus, "ServerStatus", id.ServerStatusType, id.ServerStatusDataType, func(s *server) any {
		return ua.NewExtensionObject(&ua.ServerStatusDataType{StartTime: s.started, CurrentTime: time.Now(), State: ua.ServerStateRunning, BuildInfo: s.build(), ShutdownReason: &ua.LocalizedText{}})
	}),
	component(id.Server_ServerStatus, id.Server_ServerStatus_StartTime, "StartTime", id.BaseDataVariableType, id.UtcTime, func(s *server) any { return s.started }),
	component(id.Server_ServerStatus, id.Server_ServerStatus_CurrentTime, "CurrentTime", id.BaseDataVariableType, id.UtcTime, func(*server) any { return time.Now() }),
	component(id.Server_ServerStatus, id.Server_ServerStatus_State, "State", id.BaseDataVariableType, id.ServerState, func(*server) any { return int32(ua.ServerStateRunning) }),
	component(id.Server_ServerStatus, id.Server_ServerStatus_BuildInfo, "BuildInfo", id.BuildInfoType, id.BuildInfo, func(s *server) any { return ua.NewExtensionObject(s.build()) }),
	component(id.Server_ServerStatus, id.Server_ServerStatus_SecondsTillShutdown, "SecondsTillShutdown", id.BaseDataVariableType, id.UInt32, func(*server) any { return uint32(0) }),
	component(id.Server_ServerStatus, id.Server_ServerStatus_ShutdownReason, "ShutdownReason", id.BaseDataVariableType, id.LocalizedText, func(*server) any { return &ua.LocalizedText{} }),

	object(id.Server, id.HasComponent, id.Server_ServerCapabilities, "ServerCapabilities", id.ServerCapabilitiesType),
	listed(property(id.Server_ServerCapabilities, id.Server_ServerCapabilities_ServerProfileArray, "ServerProfileArray", id.String, func(*server) any {
		return []string{"http://opcfoundation.org/UA-Profile/Server/EmbeddedUA2017"}
	})),
	listed(property(id.Server_ServerCapabilities, id.Server_ServerCapabilities_LocaleIDArray, "LocaleIdArray", id.LocaleID, func(*server) any { return []string{"en"} })),
	property(id.Server_ServerCapabilities, id.Server_ServerCapabilities_MinSupportedSampleRate, "MinSupportedSampleRate", id.Duration, func(*server) any { return 0.0 }),
	property(id.Server_ServerCapabilities, id.Server_ServerCapabilities_MaxBrowseContinuationPoints, "MaxBrowseContinuationPoints", id.UInt16, func(*server) any { return uint16(continuationsMax) }),
	object(id.Server_ServerCapabilities, id.HasComponent, id.Server_ServerCapabilities_OperationLimits, "OperationLimits", id.OperationLimitsType),
	property(id.Server_ServerCapabilities_OperationLimits, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead, "MaxNodesPerRead", id.UInt32, operations),
	property(id.Server_ServerCapabilities_OperationLimits, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerWrite, "MaxNodesPerWrite", id.UInt32, operations),
	property(id.Server_ServerCapabilities_OperationLimits, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse, "MaxNodesPerBrowse", id.UInt32, operations),
	property(id.Server_ServerCapabilities_OperationLimits, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRegisterNodes, "MaxNodesPerRegisterNodes", id.UInt32, operations),
	property(id.Server_ServerCapabilities_OperationLimits, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIDs, "MaxNodesPerTranslateBrowsePathsToNodeIds", id.UInt32, operations),
	property(id.Server_ServerCapabilities_OperationLimits, id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall, "MaxMonitoredItemsPerCall", id.UInt32, operations),
}

func (s *server) build() *ua.BuildInfo {
	return &ua.BuildInfo{ProductURI: product, ManufacturerName: "loopmq", ProductName: "loopmq", SoftwareVersion: s.setup.Version, BuildNumber: s.setup.Version}
}
