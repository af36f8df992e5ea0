package opcuaserver

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"
)

// The files that the child inherits.
const (
	fileLink = 3 + iota
	fileListener
)

const (
	// pollPause is how long changes gather before they are fetched.
	pollPause = 20 * time.Millisecond
	// tickMost is how long the child's clock sleeps.
	tickMost = time.Second
	// eventsMax bounds the lines of the log that wait for the parent.
	eventsMax = 100
	// acceptPause is the pause after a connection that couldn't be accepted.
	acceptPause = 100 * time.Millisecond
)

// Serve is the child's whole life: it serves OPC UA clients until the parent is gone. The process was started by [Server].
func Serve() error {
	link, err := net.FileConn(os.NewFile(fileLink, "link"))
	if err != nil {
		return fmt.Errorf("opcuaserver: %w: this command is started by the broker", err)
	}
	ln, err := net.FileListener(os.NewFile(fileListener, "listener"))
	if err != nil {
		return fmt.Errorf("opcuaserver: %w", err)
	}
	up := rpc.NewClient(link)
	var setup Setup
	if err := up.Call("Link.Setup", struct{}{}, &setup); err != nil {
		return fmt.Errorf("opcuaserver: %w", err)
	}
	debug.SetMemoryLimit(setup.MemoryBytes)
	if err := limitMemory(setup.MemoryBytes); err != nil {
		return fmt.Errorf("opcuaserver: %w", err)
	}
	s, err := newServer(setup, up)
	if err != nil {
		return err
	}
	return s.run(ln)
}

// server is the child: what clients have, and the address space.
type server struct {
	setup               Setup
	up                  *rpc.Client
	log                 *slog.Logger
	relay               *relay
	certificate         []byte // nil: there is none
	key                 *rsa.PrivateKey
	applications, users trust
	started             time.Time
	refused             [numRefused]atomic.Uint64
	woken               chan struct{}

	mu struct {
		sync.Mutex
		space            space
		channels         map[*channel]struct{}
		lastChannel      uint32
		sessions         map[string]*session // by their tokens
		subscriptions    int
		lastSubscription uint32
		items            int
		lastItem         uint32
		queued           int // bytes that wait in items
		resent           int // bytes that wait for an acknowledgement, or Republish
	}
}

func newServer(setup Setup, up *rpc.Client) (*server, error) {
	s := &server{setup: setup, up: up, relay: &relay{debug: setup.Debug}, started: time.Now(), woken: make(chan struct{}, 1)}
	s.log = slog.New(s.relay)
	if len(setup.Certificate) > 0 {
		key, err := x509.ParsePKCS8PrivateKey(setup.Key)
		if err != nil {
			return nil, fmt.Errorf("opcuaserver: key: %w", err)
		}
		s.certificate, s.key = setup.Certificate, key.(*rsa.PrivateKey)
	}
	var err error
	if s.applications, err = newTrust(setup.TrustedApplications); err != nil {
		return nil, fmt.Errorf("opcuaserver: %w", err)
	}
	if s.users, err = newTrust(setup.TrustedUsers); err != nil {
		return nil, fmt.Errorf("opcuaserver: %w", err)
	}
	s.mu.space = s.newSpace()
	s.mu.channels, s.mu.sessions = make(map[*channel]struct{}), make(map[string]*session)
	s.mu.lastChannel, s.mu.lastSubscription = rand.Uint32()>>1, rand.Uint32()>>1
	for _, t := range setup.Known {
		s.mu.space.topic(t)
	}
	return s, nil
}

// run serves until the parent is gone.
func (s *server) run(ln net.Listener) error {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { s.accept(ctx, ln, &all) })
	all.Go(func() { s.clock(ctx) })
	err := s.poll()
	cancel()
	_ = ln.Close()
	s.mu.Lock()
	for c := range s.mu.channels {
		c.close()
	}
	s.mu.Unlock()
	all.Wait()
	return err
}

func (s *server) refuse(r refused) { s.refused[r].Add(1) }

// call asks the parent.
func (s *server) call(method string, args, reply any) error {
	if err := s.up.Call("Link."+method, args, reply); err != nil {
		return ua.StatusBadResourceUnavailable
	}
	return nil
}

// discard tells the parent that a user has left.
func (s *server) discard(handle uint64) {
	s.up.Go("Link.Close", handle, &struct{}{}, make(chan *rpc.Call, 1))
}

func (s *server) accept(ctx context.Context, ln net.Listener, all *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Warn("opcua_server_accept", "error", err.Error())
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return
			}
			continue
		}
		c := &channel{s: s, conn: conn, out: make(chan response, responsesWaiting), closed: make(chan struct{}), idle: time.Now()}
		if !s.admit(c) {
			s.refuse(refusedConnections)
			_ = conn.Close()
			continue
		}
		all.Go(func() { s.serve(c) })
	}
}

// admit makes room for a connection: who has one and no session has to go, the longest first.
func (s *server) admit(c *channel) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.channels) >= s.setup.Connections {
		var oldest *channel
		for o := range s.mu.channels {
			if o.sessions == 0 && (oldest == nil || o.idle.Before(oldest.idle)) {
				oldest = o
			}
		}
		if oldest == nil {
			return false
		}
		s.refuse(refusedConnections)
		delete(s.mu.channels, oldest)
		oldest.close()
	}
	if s.mu.lastChannel++; s.mu.lastChannel == 0 {
		s.mu.lastChannel = 1
	}
	c.id = s.mu.lastChannel
	s.mu.channels[c] = struct{}{}
	return true
}

// serve serves a connection, and parts it from its sessions at the end.
func (s *server) serve(c *channel) {
	var err error
	func() {
		defer func() {
			if p := recover(); p != nil { // the library's, by what a client has sent; others shall not suffer from it
				err = fmt.Errorf("panic: %v", p)
				s.log.Error("opcua_server_panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				c.close()
			}
		}()
		err = c.run()
	}()
	var f *fault
	if errors.As(err, &f) {
		s.refuse(refusedProtocol)
		s.log.Info("opcua_server_refused", "remote_addr", c.conn.RemoteAddr().String(), "status", f.status.Error(), "error", f.text)
	} else if err != nil && !errors.Is(err, io.EOF) {
		s.log.Debug("opcua_server_closed", "remote_addr", c.conn.RemoteAddr().String(), "error", err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.channels, c)
	for _, ss := range s.mu.sessions {
		switch {
		case ss.channel != c:
		case ss.activated:
			s.leaveLocked(ss) // it may come back by another one
		default:
			s.endLocked(ss)
		}
	}
}

// wake has the clock look again at what is due.
func (s *server) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// clock does what is due.
func (s *server) clock(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.woken:
		case <-ctx.Done():
			return
		}
		timer.Reset(time.Until(s.tick(time.Now())))
	}
}

// tick does what is due, and returns when something is next.
func (s *server) tick(now time.Time) (next time.Time) {
	next = now.Add(tickMost)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ss := range s.mu.sessions {
		s.tickSessionLocked(ss, now)
		for _, sub := range ss.subscriptions {
			if !now.Before(sub.due) {
				s.cycleLocked(sub, now)
			}
			if sub.due.Before(next) {
				next = sub.due
			}
		}
	}
	for c := range s.mu.channels {
		if c.sessions == 0 && now.Sub(c.idle) > channelIdle {
			c.close()
		}
	}
	for _, n := range []name{{number: 2256}, {number: 2258}} { // ServerStatus and CurrentTime
		n := s.mu.space.nodes[n]
		if len(n.items) > 0 && n.value == nil || n.value != nil && now.Sub(n.value.SourceTimestamp) >= time.Second {
			n.value = n.currentLocked()
			for it := range n.items {
				it.last = nil // it can't be compared
				s.offerLocked(it, n.value)
			}
		}
	}
	return next
}

func (s *server) tickSessionLocked(ss *session, now time.Time) {
	switch {
	case !ss.activated && now.Sub(ss.created) > activationTimeout, now.Sub(ss.seen) > ss.timeout:
		s.endLocked(ss)
	case len(ss.subscriptions) > 0 && now.Sub(ss.checked) > rightsTTL:
		ss.checked = now
		topics := make(map[string]struct{})
		for _, sub := range ss.subscriptions {
			for _, it := range sub.items {
				if it.node.isTopic() && it.what.AttributeID == ua.AttributeIDValue {
					topics[it.node.name.text] = struct{}{}
				}
			}
		}
		if len(topics) > 0 {
			go s.recheck(ss, topics) // it ends as the parent answers, or is gone
		}
	}
}

// recheck has items of topics that a user may not read any more say so.
func (s *server) recheck(ss *session, topics map[string]struct{}) {
	all := make([]string, 0, len(topics))
	s.mu.Lock()
	for t := range topics {
		all = append(all, t)
		delete(ss.rights, question{t, false})
	}
	s.mu.Unlock()
	if err := s.learn(ss, all, false); err != nil {
		return // the session is over, or the parent is
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range ss.subscriptions {
		for _, it := range sub.items {
			if !it.node.isTopic() || it.what.AttributeID != ua.AttributeIDValue {
				continue
			}
			allowed := ss.rights[question{it.node.name.text, false}].allowed
			switch {
			case allowed && it.denied:
				it.denied = false
				s.offerLocked(it, it.node.value)
			case !allowed && !it.denied:
				it.denied = true
				for len(it.queue) > 0 { // nor what waits
					s.takeLocked(it)
				}
				s.unreadyLocked(it)
				s.offerLocked(it, badValue(ua.StatusBadUserAccessDenied))
			}
		}
	}
}

// poll fetches what has changed, until the parent is gone.
func (s *server) poll() error {
	var cursor uint64
	for {
		q := &Polling{Cursor: cursor, Report: s.report(), Events: s.relay.take()}
		var c Changed
		if err := s.up.Call("Link.Changes", q, &c); err != nil {
			if errors.Is(err, rpc.ErrShutdown) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return fmt.Errorf("opcuaserver: %w", err)
		}
		cursor = c.Cursor
		s.apply(c.Values)
		time.Sleep(pollPause)
	}
}

func (s *server) report() (r Report) {
	for i := range s.refused {
		r.Refused[i] = s.refused[i].Swap(0)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.channels {
		if began := c.began.Load(); began > 0 {
			r.Busy = max(r.Busy, time.Since(time.Unix(0, began)))
		}
	}
	r.Channels, r.Sessions, r.Subscriptions, r.Items = int64(len(s.mu.channels)), int64(len(s.mu.sessions)), int64(s.mu.subscriptions), int64(s.mu.items)
	return r
}

// apply gives topics their values, and items what they watch.
func (s *server) apply(values []Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range values {
		v := &values[i]
		n := s.mu.space.topic(v.Topic)
		switch {
		case v.Removed:
			n.value, n.gone = &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadNoData, SourceTimestamp: v.Time}, true
		case v.TooLarge:
			n.value, n.gone = &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadEncodingLimitsExceeded, SourceTimestamp: v.Time}, false
		default:
			n.value, n.gone = &ua.DataValue{EncodingMask: ua.DataValueValue, Value: variantOf(v.Payload), SourceTimestamp: v.Time}, false
		}
		for it := range n.items {
			if !it.denied {
				s.offerLocked(it, n.value)
			}
		}
		if n.gone && len(n.items) == 0 {
			s.mu.space.remove(n)
		}
	}
}

// relay is a slog.Handler that has the parent write the log.
type relay struct {
	debug bool

	mu struct {
		sync.Mutex
		events  []Event
		dropped int
	}
}

// Enabled implements slog.Handler.
func (r *relay) Enabled(_ context.Context, l slog.Level) bool { return r.debug || l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (r *relay) Handle(_ context.Context, record slog.Record) error {
	e := Event{Level: int(record.Level), Name: record.Message}
	record.Attrs(func(a slog.Attr) bool {
		e.Attrs = append(e.Attrs, a.Key, a.Value.String())
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mu.events) >= eventsMax {
		r.mu.dropped++
		return nil
	}
	r.mu.events = append(r.mu.events, e)
	return nil
}

// WithAttrs implements slog.Handler. It isn't used.
func (r *relay) WithAttrs([]slog.Attr) slog.Handler { return r }

// WithGroup implements slog.Handler. It isn't used.
func (r *relay) WithGroup(string) slog.Handler { return r }

// take returns what was written since the last time.
func (r *relay) take() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.mu.events
	if r.mu.dropped > 0 {
		all = append(all, Event{Level: int(slog.LevelWarn), Name: "opcua_server_log_dropped", Attrs: []string{"lines", fmt.Sprint(r.mu.dropped)}})
	}
	r.mu.events, r.mu.dropped = nil, 0
	return all
}
