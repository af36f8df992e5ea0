package metrics

import (
	"fmt"
	"sync/atomic"
)

// OPCUAConnect is what came of connecting to an OPC UA server.
type OPCUAConnect uint8

// The results. Each is a value of the label `result`.
const (
	// OPCUANewSession: the server made a session, and monitored items.
	OPCUANewSession OPCUAConnect = iota
	// OPCUAResumed: the session of the connection before goes on.
	OPCUAResumed
	// OPCUAFailed: there is no session.
	OPCUAFailed

	// NumOPCUAConnects is the number of results.
	NumOPCUAConnects = int(iota)
)

var opcuaConnects = [NumOPCUAConnects]string{OPCUANewSession: "new_session", OPCUAResumed: "resumed", OPCUAFailed: "failed"}

// String returns the value of the label, such as "resumed". It doesn't allocate.
func (r OPCUAConnect) String() string { return label(opcuaConnects[:], uint8(r)) }

// OPCUADrop says why a value of an OPC UA server was not published.
type OPCUADrop uint8

// The reasons. Each is a value of the label `reason`.
const (
	// OPCUABadStatus: a Bad status, for which the format `value` has no place.
	OPCUABadStatus OPCUADrop = iota
	// OPCUATypeUnknown: a structure that the library can't decode.
	OPCUATypeUnknown
	// OPCUANotDecoded: a whole notification that can't be decoded.
	OPCUANotDecoded
	// OPCUANotAuthorized: the Authorizer doesn't allow it.
	OPCUANotAuthorized
	// OPCUARefused: the Broker refuses it for another reason, such as its size.
	OPCUARefused
	// OPCUALost: the server didn't keep it for as long as it took to be fetched.
	OPCUALost

	// NumOPCUADrops is the number of reasons.
	NumOPCUADrops = int(iota)
)

var opcuaDrops = [NumOPCUADrops]string{
	OPCUABadStatus:     "bad_status",
	OPCUATypeUnknown:   "type_unknown",
	OPCUANotDecoded:    "not_decoded",
	OPCUANotAuthorized: "not_authorized",
	OPCUARefused:       "refused",
	OPCUALost:          "lost",
}

// String returns the value of the label, such as "lost". It doesn't allocate.
func (r OPCUADrop) String() string { return label(opcuaDrops[:], uint8(r)) }

// OPCUACommand is what became of a message that writes a node or calls a method.
type OPCUACommand uint8

// The results. Each is a value of the label `result`.
const (
	// OPCUAGood: the server did it.
	OPCUAGood OPCUACommand = iota
	// OPCUACommandRefused: the payload doesn't fit, or nothing has that topic.
	OPCUACommandRefused
	// OPCUACommandFailed: the server, or the way to it, failed.
	OPCUACommandFailed

	// NumOPCUACommands is the number of results.
	NumOPCUACommands = int(iota)
)

var opcuaCommands = [NumOPCUACommands]string{OPCUAGood: "good", OPCUACommandRefused: "refused", OPCUACommandFailed: "failed"}

// String returns the value of the label, such as "good". It doesn't allocate.
func (r OPCUACommand) String() string { return label(opcuaCommands[:], uint8(r)) }

// OPCUA holds the metrics of one endpoint of the OPC UA bridge.
type OPCUA struct {
	Connects      [NumOPCUAConnects]*Count
	Dropped       [NumOPCUADrops]*Count
	Commands      [NumOPCUACommands]*Count
	Published     *Count
	Overflows     *Count
	RepliesFailed *Count
	// Connected is whether this node has a session, Items how many monitored items it has, Failed how many mappings found
	// no node, or none that can be monitored.
	Connected     atomic.Bool
	Items, Failed atomic.Int64
}

const (
	nameOPCUAConnects  = "loopmq_opcua_connects_total"
	nameOPCUADropped   = "loopmq_opcua_values_dropped_total"
	nameOPCUACommands  = "loopmq_opcua_commands_total"
	nameOPCUAPublished = "loopmq_opcua_values_published_total"
	nameOPCUAOverflows = "loopmq_opcua_overflows_total"
	nameOPCUAReplies   = "loopmq_opcua_replies_failed_total"
)

// opcuaGauges are asked for when somebody scrapes.
var opcuaGauges = []struct {
	Family
	value func(*OPCUA) float64
}{
	{
		Family{"loopmq_opcua_connected", TypeGauge, "endpoint", "1 while this node has a session at an OPC UA server.", nil},
		func(o *OPCUA) float64 { return oneIf(o.Connected.Load()) },
	},
	{
		Family{"loopmq_opcua_items", TypeGauge, "endpoint", "Monitored items at an OPC UA server.", nil},
		func(o *OPCUA) float64 { return float64(o.Items.Load()) },
	},
	{
		Family{"loopmq_opcua_items_failed", TypeGauge, "endpoint", "Mappings, and nodes of them, that can't be monitored; the status topic says why.", nil},
		func(o *OPCUA) float64 { return float64(o.Failed.Load()) },
	},
}

// opcuaFamilies are the names of the OPC UA bridge.
var opcuaFamilies = func() []Family {
	all := []Family{
		{nameOPCUAConnects, TypeCounter, "endpoint,result", "Connections to an OPC UA server, by what came of them.", nil},
		{nameOPCUAPublished, TypeCounter, "endpoint", "Values of an OPC UA server that were published.", nil},
		{nameOPCUADropped, TypeCounter, "endpoint,reason", "Values of an OPC UA server that were not published, by reason.", nil},
		{nameOPCUAOverflows, TypeCounter, "endpoint", "Values that say that the server had to drop others before them: the queue of the item was full.", nil},
		{nameOPCUACommands, TypeCounter, "endpoint,result", "Messages that write a node or call a method, by what became of them.", nil},
		{nameOPCUAReplies, TypeCounter, "endpoint", "Results of such messages that could not be published to their Response Topics.", nil},
	}
	for _, g := range opcuaGauges {
		all = append(all, g.Family)
	}
	return all
}()

// OPCUA registers the metrics of an endpoint of the OPC UA bridge, until RemoveOPCUA. There must not be two with one name.
func (s *Set) OPCUA(endpoint string) *OPCUA {
	o := &OPCUA{}
	name := func(family string) string { return fmt.Sprintf("%s{endpoint=%q}", family, endpoint) }
	for r := range o.Connects {
		o.Connects[r] = s.vm.NewCounter(fmt.Sprintf("%s{endpoint=%q,result=%q}", nameOPCUAConnects, endpoint, OPCUAConnect(r)))
	}
	for r := range o.Dropped {
		o.Dropped[r] = s.vm.NewCounter(fmt.Sprintf("%s{endpoint=%q,reason=%q}", nameOPCUADropped, endpoint, OPCUADrop(r)))
	}
	for r := range o.Commands {
		o.Commands[r] = s.vm.NewCounter(fmt.Sprintf("%s{endpoint=%q,result=%q}", nameOPCUACommands, endpoint, OPCUACommand(r)))
	}
	o.Published = s.vm.NewCounter(name(nameOPCUAPublished))
	o.Overflows = s.vm.NewCounter(name(nameOPCUAOverflows))
	o.RepliesFailed = s.vm.NewCounter(name(nameOPCUAReplies))
	for _, g := range opcuaGauges {
		s.vm.NewGauge(name(g.Name), func() float64 { return g.value(o) })
	}
	return o
}

// RemoveOPCUA ends what OPCUA began.
func (s *Set) RemoveOPCUA(endpoint string) {
	for r := range NumOPCUAConnects {
		s.vm.UnregisterMetric(fmt.Sprintf("%s{endpoint=%q,result=%q}", nameOPCUAConnects, endpoint, OPCUAConnect(r)))
	}
	for r := range NumOPCUADrops {
		s.vm.UnregisterMetric(fmt.Sprintf("%s{endpoint=%q,reason=%q}", nameOPCUADropped, endpoint, OPCUADrop(r)))
	}
	for r := range NumOPCUACommands {
		s.vm.UnregisterMetric(fmt.Sprintf("%s{endpoint=%q,result=%q}", nameOPCUACommands, endpoint, OPCUACommand(r)))
	}
	for _, f := range opcuaFamilies {
		s.vm.UnregisterMetric(fmt.Sprintf("%s{endpoint=%q}", f.Name, endpoint))
	}
}
