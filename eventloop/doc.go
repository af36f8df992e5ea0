// Package eventloop carries connections on a fixed number of event loops. It moves bytes and knows no MQTT.
//
// An [Engine] owns N loops. A [Loop] is one goroutine around one poller; it owns its connections for life, and every
// method of [Handler] is called on it. A [Conn] is touched on its own loop only, so neither it nor what hangs on it
// needs a lock. Other goroutines reach a loop in two ways:
//
//   - [Loop.Post] hands over a function. It never blocks, is never full, and keeps the order of the caller.
//   - [Mailbox] hands over values, in batches and up to a bound: what does not fit is refused, and the caller decides.
//
// # Turns
//
// Whatever happens on a loop (a read, a posted function, a timer) may produce output for many connections. None of it
// is written at once: a turn follows the events that were ready together, a bounded number of them, and
// does, in this order: posted functions, mailboxes, timers that are due, functions given to [Loop.AtTurnEnd], then one
// write for each connection that has output, then the calls of OnClose. It goes round again while there is something
// new, a bounded number of times, and lets the poller have a look in between.
//
// So 64 messages that arrive together cost a subscriber one system call and not 64, and no callback is ever entered
// from within another one: OnClose comes from the loop, never from inside Close, EndWrite or Write.
//
// # Buffers
//
// All connections of a loop read into the same buffer: bytes given to OnData are valid until it returns. Builds with
// the tag "invariants" overwrite them afterwards. Output is encoded into a buffer that the connection borrows while it
// has something to send, see [Conn.BeginWrite]. An idle connection owns neither a buffer nor a goroutine.
//
// # What it stands on
//
// On Linux a loop runs on a poller of this package, epoll and an eventfd: a turn is what follows a batch, and a loop
// that is awake costs nobody a system call. On other Unixes it runs on the poller of gnet, which has no end of a batch;
// there each turn is a task of that poller, and the first event that comes wakes the loop for it. The tag gnetpoller
// takes gnet's on Linux too. It needs gnet's default build, without its tag poll_opt.
//
// With Config.Engine Netpoll, netpoll's poller reads connections, and a loop's own does the rest; see netpoll.go.
//
// gnet's Engine is left out on purpose. Its own acceptor shuts the engine down when the process is out of files, and
// what is meant instead of it, Enroll, takes a connection through the runtime's poller, a duplicated file, a worker
// pool and two channels. With a poller, accepting is two system calls, and to stop reading is one. Measured side by
// side (connect, 16 bytes to and fro, close; 10,000 idle connections), Enroll costs 90 us of CPU and 930 bytes per
// connection, gnet's acceptor 75 us and 630 bytes, and this package 61 us, nearly all of it the kernel's, and 420 bytes.
package eventloop
