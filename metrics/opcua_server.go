package metrics

import (
	"fmt"
	"sync/atomic"
)

// OPCUAServerRefusal says what the OPC UA server refused.
type OPCUAServerRefusal uint8

// The reasons. Each is a value of the label `reason`.
const (
	// OPCUAServerConnections: there are as many connections as there may be; the oldest one without a session may have gone.
	OPCUAServerConnections OPCUAServerRefusal = iota
	// OPCUAServerCertificate: the client's certificate isn't trusted or valid, or the client doesn't have its key.
	OPCUAServerCertificate
	// OPCUAServerProtocol: what came is no OPC UA, or not as it was agreed.
	OPCUAServerProtocol
	// OPCUAServerCredentials: the user isn't known, or nobody said who it is.
	OPCUAServerCredentials
	// OPCUAServerNotAuthorized: the Authorizer doesn't allow a read or a write.
	OPCUAServerNotAuthorized
	// OPCUAServerSessions, OPCUAServerSubscriptions, OPCUAServerItems: there are as many as there may be.
	OPCUAServerSessions
	OPCUAServerSubscriptions
	OPCUAServerItems
	// OPCUAServerUnsupported: there is no such service.
	OPCUAServerUnsupported
	// OPCUAServerResponse: the response is too large.
	OPCUAServerResponse
	// OPCUAServerValue: a value that can't be a message.
	OPCUAServerValue

	// NumOPCUAServerRefusals is the number of reasons.
	NumOPCUAServerRefusals = int(iota)
)

var opcuaServerRefusals = [NumOPCUAServerRefusals]string{
	OPCUAServerConnections:   "connections",
	OPCUAServerCertificate:   "certificate",
	OPCUAServerProtocol:      "protocol",
	OPCUAServerCredentials:   "credentials",
	OPCUAServerNotAuthorized: "not_authorized",
	OPCUAServerSessions:      "sessions",
	OPCUAServerSubscriptions: "subscriptions",
	OPCUAServerItems:         "items",
	OPCUAServerUnsupported:   "unsupported",
	OPCUAServerResponse:      "response",
	OPCUAServerValue:         "value",
}

// String returns the value of the label, such as "items". It doesn't allocate.
func (r OPCUAServerRefusal) String() string { return label(opcuaServerRefusals[:], uint8(r)) }

// OPCUAServerDrop says why a message isn't the value of a variable.
type OPCUAServerDrop uint8

// The reasons. Each is a value of the label `reason`.
const (
	// OPCUAServerTopics: there are as many variables, or bytes of them, as there may be.
	OPCUAServerTopics OPCUAServerDrop = iota
	// OPCUAServerTopic: the Topic Name is too long, or has too many levels.
	OPCUAServerTopic
	// OPCUAServerTooLarge: the payload is too large; the variable has a status that says so.
	OPCUAServerTooLarge

	// NumOPCUAServerDrops is the number of reasons.
	NumOPCUAServerDrops = int(iota)
)

var opcuaServerDrops = [NumOPCUAServerDrops]string{OPCUAServerTopics: "topics", OPCUAServerTopic: "topic", OPCUAServerTooLarge: "too_large"}

// String returns the value of the label, such as "topics". It doesn't allocate.
func (r OPCUAServerDrop) String() string { return label(opcuaServerDrops[:], uint8(r)) }

// OPCUAServerEnd says why the process of the OPC UA server ended, and was started again.
type OPCUAServerEnd uint8

// The reasons. Each is a value of the label `reason`.
const (
	// OPCUAServerExited: by itself, by a signal, or for want of memory.
	OPCUAServerExited OPCUAServerEnd = iota
	// OPCUAServerSilent: it was ended, since it said nothing for 30 s.
	OPCUAServerSilent
	// OPCUAServerStuck: it was ended, since it had been busy with one request for a minute.
	OPCUAServerStuck
	// OPCUAServerNotStarted: it couldn't be started.
	OPCUAServerNotStarted

	// NumOPCUAServerEnds is the number of reasons.
	NumOPCUAServerEnds = int(iota)
)

var opcuaServerEnds = [NumOPCUAServerEnds]string{OPCUAServerExited: "exited", OPCUAServerSilent: "silent", OPCUAServerStuck: "stuck", OPCUAServerNotStarted: "not_started"}

// String returns the value of the label, such as "silent". It doesn't allocate.
func (r OPCUAServerEnd) String() string { return label(opcuaServerEnds[:], uint8(r)) }

// OPCUAServer holds the metrics of the OPC UA server.
type OPCUAServer struct {
	Refused               [NumOPCUAServerRefusals]*Count
	Dropped               [NumOPCUAServerDrops]*Count
	Ended                 [NumOPCUAServerEnds]*Count
	Writes, WritesRefused *Count
	// Connections, Sessions, Subscriptions and Items are what there is; Topics is how many variables there are.
	Connections, Sessions, Subscriptions, Items atomic.Int64
	Topics                                      Asked
}

// Asked is a gauge whose value is asked for when somebody scrapes. The zero value is 0.
type Asked struct{ f atomic.Pointer[func() int64] }

// Store sets the function that returns the value. It must be safe for concurrent use.
func (a *Asked) Store(f func() int64) { a.f.Store(&f) }

// Load returns the value.
func (a *Asked) Load() int64 {
	if f := a.f.Load(); f != nil {
		return (*f)()
	}
	return 0
}

// opcuaServerGauge registers a gauge.
func opcuaServerGauge(value func(*OPCUAServer) int64) func(*Set, string) {
	return func(s *Set, name string) {
		s.vm.NewGauge(name, func() float64 { return float64(value(&s.OPCUAServer)) })
	}
}

// opcuaServerFamilies are the names of what the OPC UA server counts.
var opcuaServerFamilies = []Family{
	{
		"loopmq_opcua_server_refused_total", TypeCounter, "reason",
		"What the OPC UA server refused clients, by reason.",
		func(s *Set, name string) {
			for r := range s.OPCUAServer.Refused {
				s.OPCUAServer.Refused[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, OPCUAServerRefusal(r)))
			}
		},
	},
	{
		"loopmq_opcua_server_values_dropped_total", TypeCounter, "reason",
		"Messages that are not the values of their variables in the OPC UA server, by reason.",
		func(s *Set, name string) {
			for r := range s.OPCUAServer.Dropped {
				s.OPCUAServer.Dropped[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, OPCUAServerDrop(r)))
			}
		},
	},
	{
		"loopmq_opcua_server_ends_total", TypeCounter, "reason",
		"Times that the process of the OPC UA server ended and was started again, by reason.",
		func(s *Set, name string) {
			for r := range s.OPCUAServer.Ended {
				s.OPCUAServer.Ended[r] = s.vm.NewCounter(fmt.Sprintf("%s{reason=%q}", name, OPCUAServerEnd(r)))
			}
		},
	},
	{
		"loopmq_opcua_server_writes_total", TypeCounter, "",
		"Values that OPC UA clients wrote, and that were published.",
		once(func(s *Set, c *Count) { s.OPCUAServer.Writes = c }),
	},
	{
		"loopmq_opcua_server_writes_refused_total", TypeCounter, "",
		"Values that OPC UA clients wrote, and that the broker didn't publish.",
		once(func(s *Set, c *Count) { s.OPCUAServer.WritesRefused = c }),
	},
	{
		"loopmq_opcua_server_topics", TypeGauge, "",
		"Variables of topics in the OPC UA server.",
		opcuaServerGauge(func(o *OPCUAServer) int64 { return o.Topics.Load() }),
	},
	{
		"loopmq_opcua_server_connections", TypeGauge, "",
		"Connections of OPC UA clients.",
		opcuaServerGauge(func(o *OPCUAServer) int64 { return o.Connections.Load() }),
	},
	{
		"loopmq_opcua_server_sessions", TypeGauge, "",
		"Sessions of OPC UA clients.",
		opcuaServerGauge(func(o *OPCUAServer) int64 { return o.Sessions.Load() }),
	},
	{
		"loopmq_opcua_server_subscriptions", TypeGauge, "",
		"Subscriptions of OPC UA clients.",
		opcuaServerGauge(func(o *OPCUAServer) int64 { return o.Subscriptions.Load() }),
	},
	{
		"loopmq_opcua_server_items", TypeGauge, "",
		"Monitored items of OPC UA clients.",
		opcuaServerGauge(func(o *OPCUAServer) int64 { return o.Items.Load() }),
	},
}
