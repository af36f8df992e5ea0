// Benchmarks beside mochi-mqtt, in a module of their own, since it is no requirement of the broker.
module loopmq/benchmarks/mochi

go 1.26.8

require (
	github.com/mochi-mqtt/server/v2 v2.7.9
	golang.org/x/sys v0.49.0
	loopmq v0.0.0
)

require (
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/rs/xid v1.4.0 // indirect
)

replace loopmq => ../..
