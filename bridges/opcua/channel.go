package opcuabridge

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"reflect"
	"sync"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"

	"loopmq/bridges/opcua/wire"
)

// Why a connection is ended.
var (
	errProtocol = errors.New("the server breaks the protocol")
	errForged   = errors.New("a message isn't signed by the server")
	errTooLarge = errors.New("the server sends more than message_size")
	errClosed   = errors.New("the connection is closed")
)

const (
	// chunkMax is what this client receives and sends at once.
	chunkMax = 0xffff
	// chunkMin is what each peer has to take (OPC 10000-6, 7.1.2.3).
	chunkMin = 8192
	// frameHeader is what each chunk begins with: type, size.
	frameHeader = 8
	// sequenceHeader is what the body of each chunk begins with: its number, and that of the request.
	sequenceHeader = 8
	// tokenLifetime is how long a token holds, unless the server wants it shorter; it is renewed at three quarters.
	tokenLifetime = time.Hour
	// waitingMax bounds requests that have no answer yet.
	waitingMax = 100
)

// channel is a connection with a secure channel (OPC 10000-6, 6.7).
//
// It is here, and not the library's, since that one decodes what comes in a goroutine of its own, where nobody can keep a
// server from making it panic or allocate without end. Here a response is looked at before it is decoded (see checker), in
// the goroutine that asked for it. The library has the algorithms, and how things are encoded.
type channel struct {
	conn   net.Conn
	policy string // URI
	mode   ua.MessageSecurityMode
	// identity is the certificate of this application, peer that of the server; asymmetric signs with the one's key and
	// encrypts with the other's.
	identity, peer []byte
	asymmetric     *uapolicy.EncryptionAlgorithm
	messageBytes   int
	chunkBytes     int // what the server takes at once
	timeout        time.Duration
	ended          chan struct{}
	renewing       *time.Timer

	writing struct { // one message at a time
		sync.Mutex
		sequence uint32
		request  uint32
		token    token
	}

	mu struct {
		sync.Mutex
		tokens  [2]token // the one that holds, and the one before
		waiting map[uint32]chan answer
		err     error // after ended
	}
}

// token is a security token.
type token struct {
	channel, id uint32
	algorithm   *uapolicy.EncryptionAlgorithm
}

// answer is a response, not decoded yet.
type answer struct {
	body []byte
	err  error
}

// dial connects to a server, and opens a secure channel as its endpoint wants it.
func (e *Endpoint) dial(ctx context.Context, policy string, mode ua.MessageSecurityMode, peer []byte) (c *channel, err error) {
	c = &channel{
		policy: policy, mode: mode, messageBytes: int(e.MessageBytes), timeout: e.RequestTimeout, ended: make(chan struct{}),
	}
	c.mu.waiting = make(map[uint32]chan answer)
	var remote *rsa.PublicKey
	var own *rsa.PrivateKey
	if mode != ua.MessageSecurityModeNone {
		cert, err := firstCertificate(peer)
		if err != nil {
			return nil, err
		}
		var ok bool
		if remote, ok = cert.PublicKey.(*rsa.PublicKey); !ok {
			return nil, errNotTrusted
		}
		c.identity, c.peer, own = e.Security.Certificate, cert.Raw, e.Security.Key
	}
	if c.asymmetric, err = uapolicy.Asymmetric(policy, own, remote); err != nil {
		return nil, err
	}
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "4840"
	}
	dialer := net.Dialer{Timeout: e.RequestTimeout}
	if c.conn, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port)); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(e.RequestTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = c.conn.SetDeadline(deadline) // reading and writing fail if it does
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	if err := c.hello(e.URL); err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	_ = c.conn.SetDeadline(time.Time{})
	go c.receive()
	if err := c.open(ctx, ua.SecurityTokenRequestTypeIssue); err != nil {
		c.close()
		return nil, fmt.Errorf("open a secure channel: %w", err)
	}
	return c, nil
}

// firstCertificate returns the certificate of a peer, which those of authorities may follow.
func firstCertificate(der []byte) (*x509.Certificate, error) {
	all, err := x509.ParseCertificates(der)
	if err != nil || len(all) == 0 {
		return nil, fmt.Errorf("%w: it can't be read", errNotTrusted)
	}
	return all[0], nil
}

// hello agrees on sizes.
func (c *channel) hello(url string) error {
	body, err := (&uacp.Hello{ReceiveBufSize: chunkMax, SendBufSize: chunkMax, MaxMessageSize: uint32(c.messageBytes), EndpointURL: url}).Encode()
	if err != nil {
		return err
	}
	if err := c.send(frame("HELF", body)); err != nil {
		return err
	}
	b, err := c.read(make([]byte, chunkMax))
	if err != nil {
		return err
	}
	var ack uacp.Acknowledge
	if _, err := ack.Decode(b[frameHeader:]); err != nil || string(b[:4]) != "ACKF" || ack.ReceiveBufSize < chunkMin {
		return fmt.Errorf("%w: its acknowledgement is none", errProtocol)
	}
	c.chunkBytes = int(min(ack.ReceiveBufSize, chunkMax))
	return nil
}

// frame returns a body with its header.
func frame(kind string, body []byte) []byte {
	b := append(make([]byte, 0, frameHeader+len(body)), kind...)
	b = binary.LittleEndian.AppendUint32(b, uint32(frameHeader+len(body)))
	return append(b, body...)
}

func (c *channel) send(b []byte) error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.timeout))
	_, err := c.conn.Write(b)
	return err
}

// read reads a chunk, or the reason for which the server gives up.
func (c *channel) read(buffer []byte) ([]byte, error) {
	if _, err := io.ReadFull(c.conn, buffer[:frameHeader]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(buffer[4:])
	if size < frameHeader || size > uint32(len(buffer)) {
		return nil, fmt.Errorf("%w: a chunk of %d bytes", errProtocol, size)
	}
	b := buffer[:size]
	if _, err := io.ReadFull(c.conn, b[frameHeader:]); err != nil {
		return nil, err
	}
	if string(b[:3]) == "ERR" {
		var e uacp.Error
		if _, err := e.Decode(b[frameHeader:]); err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		return nil, fmt.Errorf("the server says: %s", statusName(ua.StatusCode(e.ErrorCode)))
	}
	return b, nil
}

// receive hands out what comes, until the connection ends.
func (c *channel) receive() {
	buffer := make([]byte, chunkMax)
	parts := make(map[uint32][]byte) // of responses that aren't complete, by request
	held, last := 0, uint32(0)
	var err error
	for err == nil {
		var chunk []byte
		if chunk, err = c.read(buffer); err != nil {
			break
		}
		var body []byte
		if body, err = c.unwrap(chunk); err != nil {
			break
		}
		sequence, request := binary.LittleEndian.Uint32(body), binary.LittleEndian.Uint32(body[4:])
		if c.mode != ua.MessageSecurityModeNone && last != 0 && sequence != last+1 && (last < math.MaxUint32-1024 || sequence >= 1024) {
			err = fmt.Errorf("%w: number %d after %d", errForged, sequence, last)
			break
		}
		last = sequence
		body = body[sequenceHeader:]
		switch part, begun := parts[request]; chunk[3] {
		case 'C', 'F':
			if !begun && !c.waits(request) { // nobody wants it any more
				break
			}
			if held += len(body); held > c.messageBytes {
				err = errTooLarge
				break
			}
			part = append(part, body...)
			parts[request] = part
			if chunk[3] == 'F' {
				held -= len(part)
				delete(parts, request)
				c.give(request, answer{body: part})
			}
		case 'A':
			held -= len(part)
			delete(parts, request)
			status := ua.StatusBadCommunicationError
			if len(body) >= 4 {
				status = ua.StatusCode(binary.LittleEndian.Uint32(body))
			}
			c.give(request, answer{err: status})
		default:
			err = fmt.Errorf("%w: a chunk of the kind %q", errProtocol, chunk[3])
		}
	}
	c.mu.Lock()
	if c.mu.err == nil {
		c.mu.err = err
	}
	c.mu.Unlock()
	_ = c.conn.Close()
	close(c.ended)
}

func (c *channel) waits(request uint32) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.waiting[request] != nil
}

// give hands an answer to who waits for it.
func (c *channel) give(request uint32, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if to := c.mu.waiting[request]; to != nil {
		delete(c.mu.waiting, request)
		to <- a // it has room for one
	}
}

// unwrap returns what is in a chunk, from its sequence header on, if the server has signed it as it should.
func (c *channel) unwrap(b []byte) ([]byte, error) {
	const channelID = 4
	if len(b) < frameHeader+channelID {
		return nil, errProtocol
	}
	rest := b[frameHeader+channelID:]
	algorithm, mode := c.asymmetric, c.mode
	switch string(b[:3]) {
	case "OPN":
		mode = asymmetricMode(mode)
		var h uasc.AsymmetricSecurityHeader
		n, err := h.Decode(rest)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		// Who answers with another certificate is another one.
		if h.SecurityPolicyURI != c.policy {
			return nil, errForged
		}
		if c.peer != nil {
			if cert, err := firstCertificate(h.SenderCertificate); err != nil || !bytes.Equal(cert.Raw, c.peer) {
				return nil, errForged
			}
		}
		rest = rest[n:]
	case "MSG":
		if len(rest) < 4 {
			return nil, errProtocol
		}
		if algorithm = c.algorithmOf(binary.LittleEndian.Uint32(b[frameHeader:]), binary.LittleEndian.Uint32(rest)); algorithm == nil {
			return nil, fmt.Errorf("%w: a token that it didn't give", errProtocol)
		}
		rest = rest[4:]
	case "CLO":
		return nil, io.EOF
	default:
		return nil, fmt.Errorf("%w: a message of the type %q", errProtocol, b[:3])
	}
	rest, err := wire.Unsecure(algorithm, b, len(b)-len(rest), mode)
	if err != nil {
		return nil, errForged
	}
	if len(rest) < sequenceHeader {
		return nil, errProtocol
	}
	return rest, nil
}

// asymmetricMode is how the opening of a channel is secured, whose messages are secured by mode.
func asymmetricMode(mode ua.MessageSecurityMode) ua.MessageSecurityMode {
	if mode == ua.MessageSecurityModeNone {
		return mode
	}
	return ua.MessageSecurityModeSignAndEncrypt
}

func (c *channel) algorithmOf(channel, id uint32) *uapolicy.EncryptionAlgorithm {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.mu.tokens {
		if t.channel == channel && t.id == id {
			return t.algorithm
		}
	}
	return nil
}

// open gets a token, the first one or the next.
func (c *channel) open(ctx context.Context, kind ua.SecurityTokenRequestType) error {
	nonce, err := c.asymmetric.MakeNonce()
	if err != nil {
		return err
	}
	res, err := request[ua.OpenSecureChannelResponse](ctx, c, c.timeout, nil, &ua.OpenSecureChannelRequest{
		RequestType: kind, SecurityMode: c.mode, ClientNonce: nonce, RequestedLifetime: uint32(tokenLifetime.Milliseconds()),
	})
	if err != nil {
		return err
	}
	if res.SecurityToken == nil || c.mode != ua.MessageSecurityModeNone && len(res.ServerNonce) < len(nonce) {
		return errProtocol
	}
	next := token{channel: res.SecurityToken.ChannelID, id: res.SecurityToken.TokenID}
	if next.algorithm, err = uapolicy.Symmetric(c.policy, nonce, res.ServerNonce); err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing.token = next
	c.mu.tokens = [2]token{next, c.mu.tokens[0]}
	holds := min(time.Duration(res.SecurityToken.RevisedLifetime)*time.Millisecond, tokenLifetime)
	if c.mu.err == nil {
		c.renewing = time.AfterFunc(max(holds/4*3, time.Second), func() {
			if err := c.open(context.Background(), ua.SecurityTokenRequestTypeRenew); err != nil {
				c.end(fmt.Errorf("renew the secure channel: %w", err))
			}
		})
	}
	return nil
}

// end ends the connection for a reason.
func (c *channel) end(err error) {
	c.mu.Lock()
	if c.mu.err == nil {
		c.mu.err = err
	}
	if c.renewing != nil {
		c.renewing.Stop()
	}
	c.mu.Unlock()
	_ = c.conn.Close()
}

// close tells the server that the channel isn't needed any more, and ends the connection.
func (c *channel) close() {
	force := time.AfterFunc(farewell, func() { _ = c.conn.Close() })
	defer force.Stop()
	if _, err := c.post(&ua.CloseSecureChannelRequest{}, c.timeout, nil, nil); err == nil {
		_ = c.conn.SetReadDeadline(time.Now()) // what comes now is for nobody
	}
	c.end(errClosed)
	<-c.ended
}

// request asks the server, and waits for its response: as long as timeout, or until ctx or the connection ends.
func request[R any](ctx context.Context, c *channel, timeout time.Duration, session *ua.NodeID, req ua.Request) (*R, error) {
	to := make(chan answer, 1)
	number, err := c.post(req, timeout, session, to)
	if err != nil {
		return nil, err
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.mu.waiting, number)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var a answer
	select {
	case a = <-to:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, ua.StatusBadTimeout
	case <-c.ended:
		select {
		case a = <-to: // it came before that
		default:
			c.mu.Lock()
			defer c.mu.Unlock()
			return nil, fmt.Errorf("%w: %w", errClosed, c.mu.err)
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	res := new(R)
	if err := decodeResponse(a.body, res, c.messageBytes); err != nil {
		return nil, err
	}
	return res, nil
}

// post sends a request. to gets the answer; nil: there is none.
func (c *channel) post(req ua.Request, timeout time.Duration, session *ua.NodeID, to chan answer) (number uint32, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	w := &c.writing
	if w.request++; w.request == 0 {
		w.request = 1
	}
	if session == nil {
		session = ua.NewTwoByteNodeID(0)
	}
	req.SetHeader(&ua.RequestHeader{
		AuthenticationToken: session, Timestamp: time.Now(), RequestHandle: w.request, TimeoutHint: uint32(min(timeout.Milliseconds(), math.MaxUint32)),
	})
	body, err := ua.Encode(req)
	if err != nil {
		return 0, err
	}
	service := ua.ServiceTypeID(req)
	prefix, err := ua.NewFourByteExpandedNodeID(0, service).Encode()
	if err != nil {
		return 0, err
	}
	body = append(prefix, body...)
	if to != nil {
		c.mu.Lock()
		full := len(c.mu.waiting) >= waitingMax
		if !full {
			c.mu.waiting[w.request] = to
		}
		c.mu.Unlock()
		if full {
			return 0, ua.StatusBadTooManyOperations
		}
	}
	kind, algorithm, mode := "MSG", w.token.algorithm, c.mode
	header := binary.LittleEndian.AppendUint32(nil, w.token.channel)
	switch service {
	case id.OpenSecureChannelRequest_Encoding_DefaultBinary:
		kind, algorithm, mode = "OPN", c.asymmetric, asymmetricMode(mode)
		var thumbprint []byte
		if c.peer != nil {
			thumbprint = uapolicy.Thumbprint(c.peer)
		}
		h, err := uasc.NewAsymmetricSecurityHeader(c.policy, c.identity, thumbprint).Encode()
		if err != nil {
			return 0, err
		}
		header = append(header, h...)
	case id.CloseSecureChannelRequest_Encoding_DefaultBinary:
		kind = "CLO"
		fallthrough
	default:
		if algorithm == nil {
			return 0, errClosed
		}
		header = binary.LittleEndian.AppendUint32(header, w.token.id)
	}
	// What is left of a chunk for the body, when it is signed and filled up to whole blocks.
	room := c.chunkBytes - frameHeader - len(header) - sequenceHeader - algorithm.SignatureLength() - 2*max(algorithm.BlockSize(), algorithm.PlaintextBlockSize(), 1)
	if room < 1 {
		return 0, errProtocol
	}
	for rest := body; ; {
		some := rest[:min(room, len(rest))]
		rest = rest[len(some):]
		last := byte('F')
		if len(rest) > 0 {
			last = 'C'
		}
		if w.sequence++; w.sequence > math.MaxUint32-1024 {
			w.sequence = 1
		}
		b := frame(kind+string(last), header)
		start := len(b)
		b = binary.LittleEndian.AppendUint32(b, w.sequence)
		b = binary.LittleEndian.AppendUint32(b, w.request)
		b = append(b, some...)
		if b, err = wire.Secure(algorithm, b, start, mode); err != nil {
			c.end(err)
			return 0, err
		}
		if err := c.send(b); err != nil {
			c.end(err) // what was sent of it can't be taken back
			return 0, fmt.Errorf("%w: %w", errClosed, err)
		}
		if len(rest) == 0 {
			return w.request, nil
		}
	}
}

// decodeResponse decodes a response, or the fault in its place, after a look at it.
func decodeResponse(b []byte, res any, bytesMax int) (err error) {
	defer func() {
		if r := recover(); r != nil { // the library
			err = fmt.Errorf("%w: %v", errResponse, r)
		}
	}()
	var service ua.ExpandedNodeID
	n, err := service.Decode(b)
	if err != nil || service.NodeID == nil || service.NodeID.Namespace() != 0 {
		return errResponse
	}
	var fault ua.ServiceFault
	to := res
	switch uint32(ua.ServiceTypeID(res)) {
	case service.NodeID.IntID():
	default:
		if service.NodeID.IntID() != id.ServiceFault_Encoding_DefaultBinary {
			return errResponse
		}
		to = &fault
	}
	if _, err := wire.Check(b[n:], reflect.TypeOf(to), bytesMax); err != nil {
		return err
	}
	if _, err := ua.Decode(b[n:], to); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrMalformed, err)
	}
	h := to.(ua.Response).Header()
	switch {
	case h == nil:
		return errResponse
	case h.ServiceResult != ua.StatusOK:
		return h.ServiceResult
	case to == any(&fault):
		return errResponse
	}
	return nil
}
