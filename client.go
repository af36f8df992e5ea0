package loopmq

import (
	"errors"
	"strings"
	"syscall"
	"time"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/session"
	"loopmq/store"
)

// Client is one connection, from its first byte to its end, with the state of
// its session's deliveries. It belongs to its loop: only the pointer itself may
// be used elsewhere.
//
// It is kept small, since most clients are idle: what only some need hangs off
// pointers that are nil until then.
type Client struct {
	info     ClientInfo
	conn     *eventloop.Conn
	loop     *loop
	settings *settings   // of its listener
	session  *Session    // nil until the CONNECT is through
	flow     *flow       // nil until something at QoS 1 or 2 is under way
	v5       *v5State    // nil unless the client uses something of it
	connect  *connecting // nil unless stateConnecting
	access   *access     // nil if it may do everything, for ever
	meter    *meter      // nil without limits on what is sent
	will     *store.Will
	local    *LocalClient // it is one, and has no connection

	stash *[]byte // a partial packet, or input that waits for a reason in waits; else nil

	timer    eventloop.Timer // CONNECT's time limit, then the Keep Alive
	lastSeen int64           // nanoseconds of the loop's clock at the last packet

	epoch                 uint64
	sessionExpiryInterval uint32
	maximumPacketSize     uint32 // the client's; 0: no limit
	receiveMaximum        uint16 // the client's, within Limits.Inflight
	state                 clientState
	waits                 wait
	speaks                speaks
	takenOver             takeover
	retrying              bool // is in loop.retries
	unclaimedSession      bool // the store was away, see unclaimed
}

type clientState uint8

const (
	stateNew        clientState = iota // no CONNECT yet
	stateConnecting                    // CONNECT is being decided on
	stateConnected
	stateClosed
)

// wait is a set of reasons why no input of a client is handled for now.
type wait uint8

const (
	// waitDecision: an Authenticator, an Authorizer or a claim is at work.
	waitDecision wait = 1 << iota
	// waitCommit: too much collects for the next commit.
	waitCommit
	// waitAcks: too many packets of this client wait for their acknowledgement.
	waitAcks
	// waitMailbox: another loop doesn't keep up.
	waitMailbox
	// waitRate: it, or many together, have sent more than they may.
	waitRate
)

const (
	// stashMax is how much input is kept while a client waits before its
	// connection is not read any more.
	stashMax = 64 << 10
	// stashKept is the largest buffer for partial packets that a loop keeps.
	stashKept = 4 << 10
	// connectSizeMax bounds the first packet of a connection, from whomever it is.
	// All that a CONNECT needs fits, but for User Properties without end.
	connectSizeMax = 1 << 20
	// progressBytes of a packet that is still incomplete count as a sign of
	// life: a large packet on a slow line is not a silent client, a byte now and
	// then is.
	progressBytes = 512
)

var _ eventloop.DrainHandler = connections{}

// connections hands what the event loops see to clients.
type connections struct{ b *Broker }

// OnOpen starts a client.
func (h connections) OnOpen(conn *eventloop.Conn) {
	h.b.HandleConnection(conn)
}

// OnData hands input to its client.
func (h connections) OnData(conn *eventloop.Conn, in []byte) {
	c := conn.Context().(*Client)
	c.input(in)
	if c.meter != nil {
		c.meter.take(0, len(in))
	}
}

// OnClose tells the client that its connection is gone.
func (h connections) OnClose(conn *eventloop.Conn, err error) {
	if c, ok := conn.Context().(*Client); ok {
		c.closed(err)
	}
}

// OnDrain tells the client that its output, which was full, has been taken.
func (h connections) OnDrain(conn *eventloop.Conn) {
	if c, ok := conn.Context().(*Client); ok {
		c.advance()
	}
}

// HandleConnection makes conn an MQTT connection. The version of the protocol is
// detected from its first packet. It is called on the loop of conn.
func (b *Broker) HandleConnection(conn *eventloop.Conn) {
	l := b.loops[conn.Loop().Index()]
	c := &Client{conn: conn, loop: l, settings: b.settings, info: ClientInfo{conn: conn}}
	if from := conn.Listener(); from != nil {
		if ln, ok := from.Context.(*listener); ok {
			c.settings, c.info.Listener = ln.settings, ln.Name
		}
	}
	conn.SetContext(c)
	c.timer.Init(c)
	l.el.Schedule(&c.timer, b.opts.ConnectTimeout)
	l.clients[c] = struct{}{}
	b.metrics.ConnectionsOpened.Inc()
	if b.shuttingDown.Load() || b.rejoining.Load() {
		conn.Close(b.farewell())
		return
	}
	if c.measure(); c.meter == nil {
		return
	}
	if ok := c.meter.arrived(); !ok {
		conn.Close(c.meter.refused)
	} else if c.meter.refused != nil {
		l.el.Schedule(&c.timer, min(refusedTimeout, b.opts.ConnectTimeout))
	}
}

// input takes bytes from the connection. They are valid until it returns.
func (c *Client) input(in []byte) {
	if c.waits != 0 {
		c.stashBytes(in)
		return
	}
	if c.stash != nil {
		if in = c.completeStash(in); in == nil {
			return
		}
	}
	if rest := c.packetsOf(in); len(rest) > 0 {
		c.stashBytes(rest)
	}
}

// packetsOf handles the packets in in, and returns what is left: a partial packet,
// or all from where the client has to wait.
func (c *Client) packetsOf(in []byte) (rest []byte) {
	for len(in) > 0 && c.state != stateClosed {
		if c.waits != 0 {
			break
		}
		h, ok, err := codec.DecodeFixedHeader(in, c.version())
		if err != nil {
			c.fail(err)
			return nil
		}
		if !ok {
			break
		}
		if h.Size > c.settings.limits.PacketSize || h.Size > connectSizeMax && c.state == stateNew {
			c.fail(errPacketTooLarge)
			return nil
		}
		if len(in) < h.Size {
			break
		}
		c.packet(h, in[h.HeaderSize:h.Size])
		in = in[h.Size:]
	}
	if c.state == stateClosed {
		return nil
	}
	return in
}

// completeStash adds to the partial packet in the stash just what it lacks, and
// handles it once it is whole. It returns what is left of in, nil if nothing is.
func (c *Client) completeStash(in []byte) []byte {
	stash := c.stash
	for len(in) > 0 {
		h, ok, err := codec.DecodeFixedHeader(*stash, c.version())
		if err != nil {
			c.fail(err)
			return nil
		}
		if !ok { // the fixed header itself is incomplete
			*stash = append(*stash, in[0])
			in = in[1:]
			continue
		}
		if h.Size > c.settings.limits.PacketSize || h.Size > connectSizeMax && c.state == stateNew {
			c.fail(errPacketTooLarge)
			return nil
		}
		if n := min(h.Size-len(*stash), len(in)); n > 0 {
			*stash = append(*stash, in[:n]...)
			in = in[n:]
			if n >= progressBytes {
				c.lastSeen = c.loop.el.Nanotime()
			}
		}
		if len(*stash) < h.Size {
			return nil
		}
		return c.unstash(h, in)
	}
	// Only a whole packet is missing now if its body is empty.
	if h, ok, err := codec.DecodeFixedHeader(*stash, c.version()); err != nil {
		c.fail(err)
	} else if ok && len(*stash) == h.Size {
		return c.unstash(h, nil)
	}
	return nil
}

// unstash handles the packet that fills the stash.
func (c *Client) unstash(h codec.FixedHeader, rest []byte) []byte {
	whole := c.stash
	c.stash = nil
	c.packet(h, (*whole)[h.HeaderSize:h.Size])
	if cap(*whole) <= stashKept && len(c.loop.stashes) < 64 {
		*whole = (*whole)[:0]
		c.loop.stashes = append(c.loop.stashes, whole)
	}
	if len(rest) == 0 {
		return nil
	}
	return rest
}

// stashBytes keeps input for later.
func (c *Client) stashBytes(in []byte) {
	if c.stash == nil {
		if n := len(c.loop.stashes); n > 0 && len(in) <= stashKept {
			c.stash = c.loop.stashes[n-1]
			c.loop.stashes = c.loop.stashes[:n-1]
		} else {
			c.stash = new([]byte)
		}
	}
	*c.stash = append(*c.stash, in...)
	if c.waits != 0 && len(*c.stash) > stashMax {
		c.conn.Pause()
	}
}

// wait stops handling input for a reason; resume ends that reason, and goes on
// once there is none left.
func (c *Client) wait(w wait) { c.waits |= w }

func (c *Client) resume(w wait) {
	if c.waits&w == 0 {
		return
	}
	c.waits &^= w
	if c.waits != 0 || c.state == stateClosed {
		return
	}
	if c.local != nil {
		return
	}
	c.lastSeen = c.loop.el.Nanotime() // it was us who didn't listen
	c.conn.Resume()
	if stash := c.stash; stash != nil {
		c.stash = nil
		if rest := c.packetsOf(*stash); len(rest) > 0 {
			*stash = rest // where it is: waiting after each packet must not copy it each time
			c.stash = stash
		}
	}
}

// packet handles one whole packet.
func (c *Client) packet(h codec.FixedHeader, body []byte) {
	c.lastSeen = c.loop.el.Nanotime()
	c.loop.m.PacketsReceived[h.Type].Inc()
	if b := c.loop.b; b.logPackets.Load() {
		b.log.Debug(packetEvents[h.Type], "client_id", c.info.ClientID, "size", h.Size)
	}
	if c.meter != nil && h.Type == codec.TypePublish {
		if c.meter.take(1, 0); c.state == stateClosed {
			return
		}
	}
	var err error
	switch {
	case c.state == stateNew:
		err = c.loop.b.detect(c, h, body)
	case h.Type == codec.TypeConnect:
		err = errSecondConnect
	case c.state == stateConnecting && h.Type != codec.TypeAuth && h.Type != codec.TypeDisconnect:
		err = errNotYetConnected
	default:
		err = c.handler().Packet(c, h, body)
	}
	if err != nil {
		c.fail(err)
	}
}

// packetEvents are the log's names of the packets that clients send: "publish".
var packetEvents = func() (names [16]string) {
	for t := range names {
		names[t] = strings.ToLower(codec.PacketType(t).String())
	}
	return names
}()

// version is the protocol version, 0 before CONNECT.
func (c *Client) version() codec.Version { return c.info.ProtocolVersion }

// OnTimer is called by the timer: for a CONNECT that did not come, or a Keep Alive
// that may have run out. Packets don't touch the timer, they set lastSeen.
func (c *Client) OnTimer(*eventloop.Timer) {
	if c.state != stateConnected {
		c.close(errConnectTimeout)
		return
	}
	silent := time.Duration(c.loop.el.Nanotime() - c.lastSeen)
	limit := session.KeepAliveLimit(c.info.KeepAlive)
	switch {
	case c.waits != 0: // it is not read, so its silence is ours
		c.loop.el.Schedule(&c.timer, limit)
	case silent < limit:
		c.loop.el.Schedule(&c.timer, limit-silent)
	default:
		c.disconnect(codec.KeepAliveTimeout, errKeepAlive)
	}
}

// fail ends the connection for an error in what the client sent.
func (c *Client) fail(err error) {
	if c.state == stateClosed {
		return
	}
	e := asError(err)
	c.loop.b.metrics.ProtocolErrors[e.ReasonCode].Inc()
	if c.speaks != speaksNothing {
		c.handler().Refuse(c, e)
	}
	c.close(e)
}

// disconnect ends the connection with a reason that the server has.
func (c *Client) disconnect(reason codec.ReasonCode, err error) {
	if c.state == stateConnected {
		c.handler().Disconnect(c, reason, err.Error())
	}
	c.close(err)
}

// close ends the connection after what was written is flushed.
func (c *Client) close(err error) {
	if c.state == stateClosed {
		return
	}
	was := c.state
	c.finish(err)
	if c.local != nil {
		c.local.closed(was, err)
		return
	}
	c.conn.Close(err)
}

// closed is called when the connection is gone, whoever ended it.
func (c *Client) closed(err error) {
	if c.state != stateClosed {
		c.finish(err)
	}
}

// finish ends the client's life on its loop. It runs once.
func (c *Client) finish(err error) {
	was := c.state
	c.state = stateClosed
	c.timer.Stop()
	c.stash = nil
	delete(c.loop.clients, c)
	if c.meter != nil {
		c.meter.leave()
	}
	c.decided()
	c.loop.b.metrics.ConnectionsClosed[closeReason(was, err)].Inc()
	if c.access != nil {
		c.access.leave(c)
	}
	if was == stateConnected {
		c.loop.connected.Add(-1)
		c.loop.b.disconnected(c, err)
	}
	c.loop.b.logDisconnect(c, was, err)
	c.loop.checkDrained()
}

// logDisconnect writes the one line that the end of a connection has.
func (b *Broker) logDisconnect(c *Client, was clientState, err error) {
	if was == stateNew && (err == nil || errors.Is(err, syscall.ECONNRESET)) { // a probe, which a balancer may end by a reset
		b.log.Debug("disconnect", "remote_addr", c.conn.RemoteAddr())
		return
	}
	if err == nil {
		b.log.Info("disconnect", "client_id", c.info.ClientID, "remote_addr", c.conn.RemoteAddr(), "reason", "connection closed by the client")
		return
	}
	var e *codec.Error
	code := codec.UnspecifiedError
	if errors.As(err, &e) {
		code = e.ReasonCode
	}
	b.log.Info("disconnect", "client_id", c.info.ClientID, "remote_addr", c.info.RemoteAddr(), "reason_code", code.String(), "reason", err.Error())
}

// sendAck writes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *Client) sendAck(t codec.PacketType, packetID uint16, reason codec.ReasonCode) {
	c.handler().Ack(c, t, packetID, reason)
	if c.local == nil {
		c.loop.m.PacketsSent[t].Inc()
	}
}

// accepts reports whether a packet of n bytes is within the client's Maximum
// Packet Size [MQTT-3.1.2-24].
func (c *Client) accepts(n int) bool {
	return c.maximumPacketSize == 0 || n <= int(c.maximumPacketSize)
}

// block makes c wait for w until unblock(w). A client is in blocked as long as it
// waits for one of the two reasons that concern the whole loop.
func (l *loop) block(c *Client, w wait) {
	if c.waits&(waitCommit|waitMailbox) == 0 {
		l.blocked = append(l.blocked, c)
	}
	c.wait(w)
}

// unblock lets clients go on that waited for w and for nothing else.
func (l *loop) unblock(w wait) {
	if len(l.blocked) == 0 {
		return
	}
	blocked := l.blocked
	l.blocked = nil
	for _, c := range blocked {
		if rest := c.waits & (waitCommit | waitMailbox) &^ w; rest != 0 {
			c.waits &^= w
			l.blocked = append(l.blocked, c)
			continue
		}
		c.resume(w)
	}
}

// closeReason is the label under which the end of a connection is counted.
func closeReason(was clientState, err error) metrics.CloseReason {
	if reason, ok := frameCloseReason(err); ok {
		return reason
	}
	var e *codec.Error
	switch {
	case errors.Is(err, eventloop.ErrOutputOverflow):
		return metrics.CloseOutputFull
	case errors.Is(err, eventloop.ErrTLS):
		return metrics.CloseProtocolError
	case !errors.As(err, &e):
		return metrics.CloseLost
	case e == errConnectTimeout:
		return metrics.CloseConnectTimeout
	case was != stateConnected && (e.ReasonCode == codec.ServerBusy || e.ReasonCode == codec.QuotaExceeded || e.ReasonCode == codec.ConnectionRateExceeded):
		return metrics.CloseRefused
	}
	switch e.ReasonCode {
	case codec.KeepAliveTimeout:
		return metrics.CloseKeepAlive
	case codec.SessionTakenOver:
		return metrics.CloseTakenOver
	case codec.ServerShuttingDown, codec.UseAnotherServer:
		return metrics.CloseServerShutdown
	case codec.AdministrativeAction:
		return metrics.CloseAdministrative
	case codec.MessageRateTooHigh:
		return metrics.CloseRate
	case codec.QuotaExceeded, codec.ReceiveMaximumExceeded, codec.PacketTooLarge:
		return metrics.CloseQuota
	case codec.ServerUnavailable, codec.ServerBusy:
		return metrics.CloseInternal
	}
	switch {
	case was == stateConnecting:
		return metrics.CloseRefused
	case e.ReasonCode == codec.NotAuthorized || e.ReasonCode == codec.Banned:
		return metrics.CloseNotAuthorized
	case e == errNormal || e == errDisconnectWithWill || !e.ReasonCode.IsError():
		return metrics.CloseDisconnect
	}
	return metrics.CloseProtocolError
}
