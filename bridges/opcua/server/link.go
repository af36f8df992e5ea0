package opcuaserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"loopmq"
	"loopmq/codec"
)

const (
	// pollHold is how long a question for changes waits for one.
	pollHold = time.Second
	// answerTimeout bounds what the broker does for the child.
	answerTimeout = 15 * time.Second
	attrsMax      = 20
)

// link is what a child may call. All of its methods are safe for concurrent use.
type link struct {
	s      *Server
	ctx    context.Context
	polled atomic.Int64 // when the child asked last, Unix time in ns
	busy   atomic.Int64 // for how long it was busy with one request then, in ns

	mu struct {
		sync.Mutex
		callers map[uint64]*loopmq.Caller
		handle  uint64
	}
}

func newLink(ctx context.Context, s *Server) *link {
	l := &link{s: s, ctx: ctx}
	l.mu.callers = make(map[uint64]*loopmq.Caller)
	l.polled.Store(time.Now().UnixNano())
	return l
}

// closeAll forgets all users, at the end of the child.
func (l *link) closeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.mu.callers {
		c.Close()
	}
	l.mu.callers = nil
}

func (l *link) caller(handle uint64) *loopmq.Caller {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.callers[handle]
}

// service is the part of a link that net/rpc sees.
type service struct{ l *link }

// Setup tells the child what it has to know.
func (v service) Setup(_ struct{}, r *Setup) error {
	*r = *v.l.s.setup
	return nil
}

// Open finds out who a user is.
func (v service) Open(q *Opening, r *Opened) error {
	l := v.l
	ctx, cancel := context.WithTimeout(l.ctx, answerTimeout)
	defer cancel()
	request := &loopmq.ConnectRequest{Username: q.Username, HasUsername: q.HasUsername, Password: q.Password, Listener: Listener, ProtocolVersion: codec.V5}
	if at, err := netip.ParseAddrPort(q.Address); err == nil {
		request.RemoteAddr = net.TCPAddrFromAddrPort(at)
	}
	settings := l.s.opts.Settings
	if len(q.Certificate) > 0 {
		cert, err := x509.ParseCertificate(q.Certificate)
		if err != nil {
			r.Refusal = refusalCredentials
			return nil
		}
		request.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}}
		if a := l.s.opts.Authenticator; a != nil {
			own := loopmq.Settings{}
			if settings != nil {
				own = *settings
			}
			own.Authenticator = a
			settings = &own
		}
	}
	c, err := l.s.opts.Broker.Authenticate(ctx, request, settings)
	if err != nil {
		if r.Refusal = refusalOf(err); r.Refusal == refusalNotAuthorized {
			r.Refusal = refusalCredentials
		}
		l.s.log.Info("opcua_server_session_refused", "username", q.Username, "remote_addr", q.Address, "error", err)
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.callers == nil { // the child is gone
		c.Close()
		return errGone
	}
	l.mu.handle++
	l.mu.callers[l.mu.handle] = c
	r.Handle, r.Username = l.mu.handle, c.Info().Username
	l.s.log.Info("opcua_server_session", "username", r.Username, "name", q.Name, "remote_addr", q.Address)
	return nil
}

var errGone = errors.New("opcuaserver: the process is gone")

// Close forgets a user.
func (v service) Close(handle uint64, _ *struct{}) error {
	l := v.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.mu.callers[handle]; c != nil {
		c.Close()
		delete(l.mu.callers, handle)
	}
	return nil
}

// Authorize says what a user may do.
func (v service) Authorize(q *Asking, r *Allowed) error {
	c := v.l.caller(q.Handle)
	if c == nil || c.Err() != nil {
		r.Refusal = refusalEnded
		return nil
	}
	o := &v.l.s.opts
	ctx, cancel := context.WithTimeout(v.l.ctx, answerTimeout)
	defer cancel()
	clientID := c.Info().ClientID
	r.Allowed = make([]bool, len(q.Topics))
	for i, t := range q.Topics {
		if q.Write {
			r.Allowed[i] = c.Authorize(ctx, loopmq.ActionPublish, t, o.WriteQoS, o.WriteRetain)
		} else {
			r.Allowed[i] = c.Authorize(ctx, loopmq.ActionSubscribe, t, 0, false) && c.MayGet(ctx, clientID, t, 0)
		}
	}
	return nil
}

// Publish publishes what a user writes.
func (v service) Publish(q *Writing, r *Refusal) error {
	c, m := v.l.caller(q.Handle), &v.l.s.opts.Metrics.OPCUAServer
	if c == nil {
		*r = refusalEnded
		return nil
	}
	ctx, cancel := context.WithTimeout(v.l.ctx, answerTimeout)
	defer cancel()
	o := &v.l.s.opts
	message := &loopmq.Message{TopicName: q.Topic, Payload: q.Payload, QoS: o.WriteQoS, Retain: o.WriteRetain}
	if q.Text {
		message.PayloadFormatIndicator = 1
	}
	if _, err := c.Publish(ctx, message); err != nil {
		if *r = refusalOf(err); c.Err() != nil {
			*r = refusalEnded
		}
		m.WritesRefused.Inc()
		return nil
	}
	m.Writes.Inc()
	return nil
}

// refusalOf is why the broker didn't do something.
func refusalOf(err error) Refusal {
	var rate *loopmq.RateError
	var e *codec.Error
	switch {
	case errors.As(err, &rate):
		return refusalRate
	case errors.Is(err, loopmq.ErrTooLarge):
		return refusalTooLarge
	case errors.Is(err, loopmq.ErrTopicName):
		return refusalInvalid
	case errors.As(err, &e):
		switch e.ReasonCode {
		case codec.BadUserNameOrPassword, codec.BadAuthenticationMethod, codec.Banned:
			return refusalCredentials
		case codec.NotAuthorized:
			return refusalNotAuthorized
		case codec.PacketTooLarge:
			return refusalTooLarge
		case codec.PayloadFormatInvalid, codec.TopicNameInvalid, codec.QoSNotSupported, codec.RetainNotSupported:
			return refusalInvalid
		case codec.MessageRateTooHigh, codec.ConnectionRateExceeded:
			return refusalRate
		}
	}
	return refusalUnavailable
}

// Changes tells what has changed, and takes what the child has counted.
func (v service) Changes(q *Polling, r *Changed) error {
	l := v.l
	l.polled.Store(time.Now().UnixNano())
	l.busy.Store(int64(q.Report.Busy))
	l.s.count(&q.Report)
	for i := range q.Events {
		l.s.write(&q.Events[i])
	}
	ctx, cancel := context.WithTimeout(l.ctx, pollHold)
	defer cancel()
	*r = l.s.table.changes(ctx, q.Cursor)
	l.polled.Store(time.Now().UnixNano())
	return nil
}

// count adds what a child has counted.
func (s *Server) count(r *Report) {
	m := &s.opts.Metrics.OPCUAServer
	for i, n := range r.Refused {
		m.Refused[i].Add(int(min(n, 1<<31)))
	}
	m.Connections.Store(r.Channels)
	m.Sessions.Store(r.Sessions)
	m.Subscriptions.Store(r.Subscriptions)
	m.Items.Store(r.Items)
}

// write writes a line of the child's log.
func (s *Server) write(e *Event) {
	attrs := make([]any, 0, len(e.Attrs))
	for i := 0; i+1 < min(len(e.Attrs), 2*attrsMax); i += 2 {
		attrs = append(attrs, e.Attrs[i], e.Attrs[i+1])
	}
	s.log.Log(context.Background(), slog.Level(e.Level), fmt.Sprint(e.Name), attrs...)
}
