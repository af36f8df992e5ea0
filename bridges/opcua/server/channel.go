package opcuaserver

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // thumbprints of certificates are SHA-1 [OPC 10000-6, 6.7.2.3]
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"

	"loopmq/bridges/opcua/wire"
)

const (
	// chunkMax is the largest chunk either way, chunkLeast what each side has to take. [OPC 10000-6, 7.1.2]
	chunkMax   = 65535
	chunkLeast = 8192
	headerSize = 12 // of a message: its type, its size, the channel
	// bytesBeforeSession bounds a request of who isn't known.
	bytesBeforeSession = 64 << 10
	// helloTimeout bounds the time until the secure channel is open, writeTimeout that of writing a response.
	helloTimeout = 10 * time.Second
	writeTimeout = 30 * time.Second
	// lifetimeLeast and lifetimeMost bound the life of a security token.
	lifetimeLeast = 10 * time.Second
	lifetimeMost  = time.Hour
	// responsesWaiting is how many responses wait for a client to read; then its requests aren't read.
	responsesWaiting = 4
)

// fault ends a connection, and tells the client why.
type fault struct {
	status ua.StatusCode
	text   string
}

func (f *fault) Error() string { return f.text }

func failed(status ua.StatusCode, format string, args ...any) error {
	return &fault{status, fmt.Sprintf(format, args...)}
}

// token is what messages are secured with for a time.
type token struct {
	id      uint32
	algo    *uapolicy.EncryptionAlgorithm
	expires time.Time
}

// response goes out by a channel: a message, or an OpenSecureChannelResponse, which is secured otherwise.
type response struct {
	request uint32
	body    ua.Response
	open    *uapolicy.EncryptionAlgorithm
	last    *fault // in place of a body: the end
}

// channel is a connection with its secure channel. [OPC 10000-6, 6.7 and 7.1]
type channel struct {
	s    *server
	conn net.Conn
	id   uint32

	// The reader's.
	policy      string
	mode        ua.MessageSecurityMode
	certificate *x509.Certificate // the client's; nil without a policy
	raw         []byte            // as it came
	tokens      []*token          // the newest, and the one before
	sequence    uint32
	numbered    bool // there was a sequence number
	message     []byte
	chunks      int
	requestID   uint32
	in          []byte // a chunk

	// Known once the connection has begun.
	sendMax, messageMax, chunksMax uint32

	// The writer's.
	sent uint32

	sending atomic.Pointer[token]
	began   atomic.Int64 // the service of a request, Unix time in ns; 0: there is none
	out     chan response
	closed  chan struct{}
	once    sync.Once

	// Guarded by the server's lock.
	sessions int
	idle     time.Time // since when it has none
}

// close ends the connection. It may be called at any time, by anyone.
func (c *channel) close() {
	c.once.Do(func() {
		close(c.closed)
		_ = c.conn.Close()
	})
}

// run serves the connection until it ends, and returns why.
func (c *channel) run() error {
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	err := c.serve()
	var f *fault
	if errors.As(err, &f) {
		select {
		case c.out <- response{last: f}:
			select {
			case <-written:
			case <-time.After(time.Second):
			}
		default:
		}
	}
	c.close()
	<-written
	return err
}

func (c *channel) serve() error {
	if err := c.conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	if err := c.hello(); err != nil {
		return err
	}
	for {
		kind, last, err := c.read()
		if err != nil {
			return err
		}
		switch kind {
		case "OPN":
			err = c.open()
		case "MSG":
			err = c.receive(last)
		case "CLO":
			return nil
		default:
			err = failed(ua.StatusBadTCPMessageTypeInvalid, "message type %q", kind)
		}
		if err != nil {
			return err
		}
	}
}

// read reads a chunk into c.in.
func (c *channel) read() (kind string, last byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return "", 0, err
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if size < headerSize || size > chunkMax {
		return "", 0, failed(ua.StatusBadTCPMessageTooLarge, "a chunk of %d bytes", size)
	}
	c.in = make([]byte, size)
	copy(c.in, head[:])
	if _, err := io.ReadFull(c.conn, c.in[8:]); err != nil {
		return "", 0, err
	}
	return string(head[:3]), head[3], nil
}

// hello agrees on sizes.
func (c *channel) hello() error {
	kind, last, err := c.read()
	if err != nil {
		return err
	}
	if kind != "HEL" || last != 'F' || len(c.in) > chunkLeast {
		return failed(ua.StatusBadTCPMessageTypeInvalid, "message type %q instead of HEL", kind)
	}
	h := &uacp.Hello{}
	if _, err := wire.Check(c.in[8:], reflect.TypeFor[uacp.Hello](), c.s.setup.MessageBytes); err != nil {
		return failed(ua.StatusBadDecodingError, "hello: %v", err)
	}
	if _, err := h.Decode(c.in[8:]); err != nil {
		return failed(ua.StatusBadDecodingError, "hello: %v", err)
	}
	if h.ReceiveBufSize < chunkLeast || h.SendBufSize < chunkLeast {
		return failed(ua.StatusBadTCPNotEnoughResources, "buffers of %d and %d bytes", h.ReceiveBufSize, h.SendBufSize)
	}
	c.sendMax, c.messageMax, c.chunksMax = min(h.ReceiveBufSize, chunkMax), h.MaxMessageSize, h.MaxChunkCount
	body, err := ua.Encode(&uacp.Acknowledge{
		ReceiveBufSize: min(h.SendBufSize, chunkMax), SendBufSize: c.sendMax, MaxMessageSize: uint32(c.s.setup.MessageBytes), MaxChunkCount: uint32(c.s.chunksMost()),
	})
	if err != nil {
		return err
	}
	return c.raw8("ACKF", body)
}

// raw8 writes a message that isn't secured. Before the channel is open nobody else writes.
func (c *channel) raw8(kind string, body []byte) error {
	b := append([]byte(kind), 0, 0, 0, 0)
	b = append(b, body...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(b)
	return err
}

// chunksMost is of how many chunks a request may consist.
func (s *server) chunksMost() int { return s.setup.MessageBytes/chunkLeast + 1 }

// open answers an OpenSecureChannelRequest. [OPC 10000-4, 5.5.2]
func (c *channel) open() error {
	head := &struct {
		Policy      string
		Certificate []byte
		Thumbprint  []byte
	}{}
	n, err := wire.Check(c.in[headerSize:], reflect.TypeOf(*head), c.s.setup.MessageBytes)
	if err == nil {
		_, err = ua.Decode(c.in[headerSize:], head)
	}
	if err != nil {
		return failed(ua.StatusBadDecodingError, "open: %v", err)
	}
	renewing := len(c.tokens) > 0
	if id := binary.LittleEndian.Uint32(c.in[8:]); renewing && id != c.id || !renewing && id != 0 {
		return failed(ua.StatusBadTCPSecureChannelUnknown, "channel %d", id)
	}
	if renewing && head.Policy != c.policy {
		return failed(ua.StatusBadSecurityPolicyRejected, "the policy was %q and is %q", c.policy, head.Policy)
	}
	// Who looks for the endpoints doesn't know them yet. [OPC 10000-4, 5.5.4.1]
	if c.in[3] != 'F' || head.Policy != ua.SecurityPolicyURINone && !c.s.offers(head.Policy) {
		return failed(ua.StatusBadSecurityPolicyRejected, "policy %q", head.Policy)
	}
	algo, cert, err := c.asymmetric(head.Policy, head.Certificate, head.Thumbprint)
	if err != nil {
		return err
	}
	if renewing && cert != nil && !cert.Equal(c.certificate) {
		return failed(ua.StatusBadSecurityChecksFailed, "another certificate")
	}
	mode := ua.MessageSecurityModeNone
	if cert != nil {
		mode = ua.MessageSecurityModeSignAndEncrypt
	}
	plain, err := wire.Unsecure(algo, c.in, headerSize+n, mode)
	if err != nil {
		return failed(ua.StatusBadSecurityChecksFailed, "open: %v", err)
	}
	request, body, err := c.numbers(plain)
	if err != nil {
		return err
	}
	decoded, err := decodeRequest(body, c.s.setup.MessageBytes)
	if err != nil {
		return failed(ua.StatusBadDecodingError, "open: %v", err)
	}
	q, ok := decoded.(*ua.OpenSecureChannelRequest)
	if !ok {
		return failed(ua.StatusBadTCPMessageTypeInvalid, "%T", decoded)
	}
	switch {
	case renewing != (q.RequestType == ua.SecurityTokenRequestTypeRenew):
		return failed(ua.StatusBadRequestTypeInvalid, "request type %d", q.RequestType)
	case cert == nil && q.SecurityMode != ua.MessageSecurityModeNone,
		cert != nil && q.SecurityMode != ua.MessageSecurityModeSignAndEncrypt && !(q.SecurityMode == ua.MessageSecurityModeSign && c.s.setup.AllowSign),
		renewing && q.SecurityMode != c.mode:
		return failed(ua.StatusBadSecurityModeRejected, "security mode %d", q.SecurityMode)
	case cert != nil && len(q.ClientNonce) != algo.NonceLength():
		return failed(ua.StatusBadNonceInvalid, "a nonce of %d bytes", len(q.ClientNonce))
	}
	if !renewing { // the writer reads them from here on
		c.policy, c.mode, c.certificate, c.raw = head.Policy, q.SecurityMode, cert, head.Certificate
	}
	nonce := make([]byte, algo.NonceLength())
	_, _ = rand.Read(nonce) // it never fails
	symmetric, err := uapolicy.Symmetric(c.policy, nonce, q.ClientNonce)
	if err != nil {
		return failed(ua.StatusBadSecurityChecksFailed, "open: %v", err)
	}
	lifetime := min(max(time.Duration(q.RequestedLifetime)*time.Millisecond, lifetimeLeast), lifetimeMost)
	now := time.Now()
	next := &token{id: 1, algo: symmetric, expires: now.Add(lifetime + lifetime/4)}
	if renewing {
		next.id = c.tokens[0].id + 1
	}
	if c.tokens = append([]*token{next}, c.tokens...); len(c.tokens) > 2 {
		c.tokens = c.tokens[:2]
	}
	// A client that is silent for so long has let its token expire.
	if err := c.conn.SetReadDeadline(next.expires); err != nil {
		return err
	}
	c.sending.CompareAndSwap(nil, next)
	c.send(response{request: request, open: algo, body: &ua.OpenSecureChannelResponse{
		ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK),
		SecurityToken:  &ua.ChannelSecurityToken{ChannelID: c.id, TokenID: next.id, CreatedAt: now, RevisedLifetime: uint32(lifetime / time.Millisecond)},
		ServerNonce:    nonce,
	}})
	return nil
}

// asymmetric checks who opens a channel, and returns how that is secured. cert is nil without a policy.
func (c *channel) asymmetric(policy string, der, thumbprint []byte) (algo *uapolicy.EncryptionAlgorithm, cert *x509.Certificate, err error) {
	if policy == ua.SecurityPolicyURINone {
		algo, err = uapolicy.Asymmetric(policy, nil, nil)
		return algo, nil, err
	}
	own := sha1.Sum(c.s.certificate) //nolint:gosec // see the import
	if string(own[:]) != string(thumbprint) {
		return nil, nil, failed(ua.StatusBadCertificateInvalid, "the request is for another certificate")
	}
	cert, status, err := c.s.applications.verify(der, time.Now())
	if err != nil {
		c.s.refuse(refusedCertificate)
		return nil, nil, &fault{status, err.Error()}
	}
	algo, err = uapolicy.Asymmetric(policy, c.s.key, cert.PublicKey.(*rsa.PublicKey))
	if err != nil {
		return nil, nil, failed(ua.StatusBadCertificateInvalid, "%v", err)
	}
	return algo, cert, nil
}

// receive takes a chunk of a message; the last one has the request served.
func (c *channel) receive(last byte) error {
	if len(c.tokens) == 0 || binary.LittleEndian.Uint32(c.in[8:]) != c.id {
		return failed(ua.StatusBadTCPSecureChannelUnknown, "channel %d", binary.LittleEndian.Uint32(c.in[8:]))
	}
	if len(c.in) < headerSize+4 {
		return failed(ua.StatusBadDecodingError, "a chunk of %d bytes", len(c.in))
	}
	var t *token
	for _, known := range c.tokens {
		if known.id == binary.LittleEndian.Uint32(c.in[headerSize:]) {
			t = known
		}
	}
	if t == nil || time.Now().After(t.expires) {
		return failed(ua.StatusBadSecureChannelTokenUnknown, "the token isn't known, or has expired")
	}
	plain, err := wire.Unsecure(t.algo, c.in, headerSize+4, c.mode)
	if err != nil {
		return failed(ua.StatusBadSecurityChecksFailed, "%v", err)
	}
	if t == c.tokens[0] && len(c.tokens) > 1 { // the client has the new one
		c.tokens = c.tokens[:1]
	}
	if t == c.tokens[0] {
		c.sending.Store(t)
	}
	request, body, err := c.numbers(plain)
	if err != nil {
		return err
	}
	if c.chunks > 0 && request != c.requestID {
		return failed(ua.StatusBadSecurityChecksFailed, "chunks of two requests")
	}
	c.requestID = request
	switch last {
	case 'A': // The client has thought better of it.
		c.message, c.chunks = nil, 0
		return nil
	case 'C', 'F':
	default:
		return failed(ua.StatusBadTCPMessageTypeInvalid, "chunk type %q", last)
	}
	most := c.s.setup.MessageBytes
	if !c.known() {
		most = min(most, bytesBeforeSession)
	}
	if c.chunks++; c.chunks > c.s.chunksMost() || len(c.message)+len(body) > most {
		return failed(ua.StatusBadTCPMessageTooLarge, "a request of more than %d bytes", most)
	}
	if c.message = append(c.message, body...); last == 'C' {
		return nil
	}
	message := c.message
	c.message, c.chunks = nil, 0
	return c.s.handle(c, request, message)
}

// known reports whether a user has shown who it is by this channel.
func (c *channel) known() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.sessions > 0
}

// numbers checks the sequence header, and returns the request's number and what follows.
func (c *channel) numbers(b []byte) (request uint32, body []byte, err error) {
	if len(b) < 8 {
		return 0, nil, failed(ua.StatusBadDecodingError, "a chunk without a sequence header")
	}
	n := binary.LittleEndian.Uint32(b)
	wraps := c.sequence > math.MaxUint32-1024 && n < 1024
	if c.numbered && n != c.sequence+1 && !wraps {
		return 0, nil, failed(ua.StatusBadSequenceNumberInvalid, "sequence number %d after %d", n, c.sequence)
	}
	c.sequence, c.numbered = n, true
	return binary.LittleEndian.Uint32(b[4:]), b[8:], nil
}

// send queues a response, and waits while the client reads none. It reports whether the connection lives.
func (c *channel) send(r response) bool {
	select {
	case c.out <- r:
		return true
	case <-c.closed:
		return false
	}
}

// trySend is send for who can't wait.
func (c *channel) trySend(r response) bool {
	select {
	case <-c.closed:
		return false
	default:
	}
	select {
	case c.out <- r:
		return true
	default:
		return false
	}
}

// write sends responses until the connection ends.
func (c *channel) write() {
	defer c.close()
	for {
		select {
		case r := <-c.out:
			if r.last != nil {
				body, err := ua.Encode(&uacp.Error{ErrorCode: uint32(r.last.status), Reason: r.last.text})
				if err == nil {
					_ = c.raw8("ERRF", body) // the end anyway
				}
				return
			}
			if err := c.writeResponse(&r); err != nil {
				return
			}
		case <-c.closed:
			return
		}
	}
}

func (c *channel) writeResponse(r *response) error {
	body, err := encodeResponse(r.body)
	if err != nil {
		c.s.log.Error("opcua_server_encode", "response", fmt.Sprintf("%T", r.body), "error", err)
		body, err = encodeResponse(faultOf(r.body.Header(), ua.StatusBadEncodingError))
	}
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	mode := c.mode
	if r.open != nil {
		head := binary.LittleEndian.AppendUint32(nil, uint32(len(c.policy)))
		head = append(head, c.policy...)
		if c.certificate == nil {
			head = append(head, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
		} else {
			own := sha1.Sum(c.certificate.Raw) //nolint:gosec // see the import
			head = binary.LittleEndian.AppendUint32(head, uint32(len(c.s.certificate)))
			head = append(head, c.s.certificate...)
			head = binary.LittleEndian.AppendUint32(head, uint32(len(own)))
			head = append(head, own[:]...)
			mode = ua.MessageSecurityModeSignAndEncrypt
		}
		return c.writeChunk("OPNF", head, r.request, body, r.open, mode)
	}
	t := c.sending.Load()
	room := int(c.sendMax) - headerSize - 4 - 8 - t.algo.SignatureLength()
	if mode == ua.MessageSecurityModeSignAndEncrypt {
		room -= t.algo.BlockSize() + 1
	}
	chunks := (len(body) + room - 1) / room
	if c.messageMax > 0 && len(body) > int(c.messageMax) || c.chunksMax > 0 && chunks > int(c.chunksMax) || len(body) > responseMax {
		if body, err = encodeResponse(faultOf(r.body.Header(), ua.StatusBadResponseTooLarge)); err != nil {
			return err
		}
	}
	head := binary.LittleEndian.AppendUint32(nil, t.id)
	for len(body) > room {
		if err := c.writeChunk("MSGC", head, r.request, body[:room], t.algo, mode); err != nil {
			return err
		}
		body = body[room:]
	}
	return c.writeChunk("MSGF", head, r.request, body, t.algo, mode)
}

func (c *channel) writeChunk(kind string, head []byte, request uint32, body []byte, algo *uapolicy.EncryptionAlgorithm, mode ua.MessageSecurityMode) error {
	if c.sent++; c.sent > math.MaxUint32-1024 {
		c.sent = 1
	}
	b := append(make([]byte, 0, headerSize+len(head)+8+len(body)+1024), kind...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, c.id)
	b = append(b, head...)
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, c.sent)
	b = binary.LittleEndian.AppendUint32(b, request)
	b = append(b, body...)
	b, err := wire.Secure(algo, b, at, mode)
	if err != nil {
		return err
	}
	_, err = c.conn.Write(b)
	return err
}
