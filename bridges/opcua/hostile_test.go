package opcuabridge

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"math"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"

	"loopmq/bridges/opcua/wire"
	"loopmq/internal/opcuatest"
)

// A notification that was lost with the connection is asked for when the session goes on.
func TestLostNotificationComesAgain(t *testing.T) {
	t.Parallel()
	f := mustFake(t)
	var cut atomic.Bool
	f.on("Publish", func(ua.Request) any {
		if !cut.Swap(true) {
			f.cut() // the server has sent it, so far as it knows
		}
		return silence{}
	})
	f.on("Republish", func(req ua.Request) any {
		if n := req.(*ua.RepublishRequest).RetransmitSequenceNumber; n == 1 {
			return &ua.RepublishResponse{NotificationMessage: notification(n, "lost")}
		}
		return nil
	})
	s := mustServeFake(t, f)
	s.await("lost")
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.mu.asked["CreateSession"]; n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// What is missing between two notifications is asked for; what the server has no more is counted.
func TestGap(t *testing.T) {
	t.Parallel()
	f := mustFake(t)
	next := make(chan *ua.NotificationMessage, 3)
	next <- notification(1, "one")
	next <- notification(4, "four")
	f.on("Publish", func(ua.Request) any {
		select {
		case n := <-next:
			return published(n)
		default:
			return silence{}
		}
	})
	f.on("Republish", func(req ua.Request) any {
		if req.(*ua.RepublishRequest).RetransmitSequenceNumber == 3 {
			return &ua.RepublishResponse{NotificationMessage: notification(3, "three")}
		}
		return nil
	})
	s := mustServeFake(t, f)
	s.await("one")
	s.await("three")
	s.await("four")
	var text bytes.Buffer
	s.broker.Metrics().WritePrometheus(&text)
	if !strings.Contains(text.String(), `loopmq_opcua_values_dropped_total{endpoint="e",reason="lost"} 1`) {
		t.Error("the notification that is gone isn't counted")
	}
}

// Subscriptions that the server has ended are made again.
func TestSubscriptionEnded(t *testing.T) {
	t.Parallel()
	f := mustFake(t)
	var n atomic.Int32
	f.on("Publish", func(ua.Request) any {
		switch n.Add(1) {
		case 1:
			return &ua.PublishResponse{ResponseHeader: &ua.ResponseHeader{ServiceResult: ua.StatusBadNoSubscription}, NotificationMessage: &ua.NotificationMessage{}}
		case 2:
			return published(&ua.NotificationMessage{SequenceNumber: 1, NotificationData: []*ua.ExtensionObject{
				ua.NewExtensionObject(&ua.StatusChangeNotification{Status: ua.StatusBadTimeout, DiagnosticInfo: &ua.DiagnosticInfo{}}),
			}})
		case 3:
			m := notification(1, "again")
			m.NotificationData[0].Value.(*ua.DataChangeNotification).MonitoredItems[0].ClientHandle = 3 // the third item in turn
			return published(m)
		}
		return silence{}
	})
	s := mustServeFake(t, f)
	s.await("again")
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.mu.asked["CreateSubscription"]; n != 3 {
		t.Errorf("%d subscriptions, want 3", n)
	}
}

// responseBody is the beginning of a body: a header that says Good.
func responseBody() []byte {
	b, err := ua.Encode(&ua.ResponseHeader{ServiceDiagnostics: &ua.DiagnosticInfo{}, AdditionalHeader: ua.NewExtensionObject(nil)})
	if err != nil {
		panic(err)
	}
	return b
}

func le(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// hostile are bodies of a PublishResponse that the library's decoder would die of, or that make no sense.
func hostile() map[string][]byte {
	object := func(body []byte) []byte { // a DataChangeNotification
		b := bytes.Join([][]byte{responseBody(), le(7), le(0xffffffff), {0}, le(1), make([]byte, 8), le(1), {1, 0, 0x2b, 0x03, 1}, le(uint32(len(body))), body}, nil)
		return append(b, bytes.Repeat([]byte{0xff}, 8)...)
	}
	value := func(v ...byte) []byte { return object(append(append(le(1), append(le(1), 1)...), v...)) }
	deep := bytes.Repeat([]byte{byte(ua.TypeIDVariant)}, 100_000)
	inner := append(responseBody()[:12], bytes.Repeat([]byte{ua.DiagnosticInfoInnerDiagnosticInfo}, 60_000)...)
	return map[string][]byte{
		"nothing":                   {},
		"half":                      responseBody()[:5],
		"a list of 2^31 numbers":    bytes.Join([][]byte{responseBody(), le(7), le(math.MaxInt32)}, nil),
		"a list of 2^31 items":      object(le(math.MaxInt32)),
		"a list of -2 items":        object(le(0xfffffffe)),
		"an array of -2 values":     value(append([]byte{0x80 | byte(ua.TypeIDInt32)}, le(0xfffffffe)...)...),
		"2^31 dimensions":           value(bytes.Join([][]byte{{0xc0 | byte(ua.TypeIDByte)}, le(1), {1}, le(math.MaxInt32)}, nil)...),
		"dimensions that overflow":  value(bytes.Join([][]byte{{0xc0 | byte(ua.TypeIDByte)}, le(0), le(2), le(1 << 16), le(1 << 16)}, nil)...),
		"values in values":          value(deep...),
		"diagnostics in themselves": inner,
		"a text of 2^31 bytes":      value(append([]byte{byte(ua.TypeIDString)}, le(math.MaxInt32)...)...),
		"a type that isn't":         value(63),
		"a node id that isn't":      value(byte(ua.TypeIDNodeID), 0x0f),
	}
}

// No server can crash the broker, stall it or fill its memory: what can't be decoded is dropped and counted, and what breaks
// the protocol ends the connection; then all goes on.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	frames := map[string][]byte{
		"an empty chunk":          append([]byte("MSGF"), le(8)...),
		"a chunk without an end":  append([]byte("MSGF"), le(math.MaxUint32)...),
		"a chunk of -1 bytes":     append([]byte("MSGF"), le(7)...),
		"a token that isn't":      append([]byte("MSGF"), append(le(32), bytes.Repeat([]byte{9}, 24)...)...),
		"no sequence header":      append([]byte("MSGF"), append(le(20), append(append(le(1), le(1)...), 1, 2, 3, 4)...)...),
		"a kind that isn't":       append([]byte("MSGX"), append(le(24), append(append(le(1), le(1)...), 1, 2, 3, 4, 5, 6, 7, 8)...)...),
		"a type that isn't":       append([]byte("FOOF"), append(le(24), make([]byte, 16)...)...),
		"an asymmetric header":    append([]byte("OPNF"), append(le(24), bytes.Repeat([]byte{0xee}, 16)...)...),
		"an end":                  append([]byte("CLOF"), append(le(12), le(1)...)...),
		"an error":                append([]byte("ERRF"), append(le(16), append(le(uint32(ua.StatusBadTCPInternalError)), le(0xffffffff)...)...)...),
		"an error without reason": append([]byte("ERRF"), append(le(10), 1, 2)...),
		"not the protocol":        []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	}
	try := func(name string, answer func(number uint32) any) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := mustFake(t)
			var asked atomic.Int32
			f.on("Publish", func(req ua.Request) any {
				switch asked.Add(1) {
				case 1:
					return answer(req.Header().RequestHandle)
				case 2:
					return published(notification(1, "well"))
				}
				return silence{}
			})
			mustServeFake(t, f).await("well")
		})
	}
	for name, body := range hostile() {
		try(name, func(number uint32) any {
			whole := enclose(number, 1, &ua.PublishResponse{}, body)
			if len(whole) <= chunkMax {
				return raw(whole)
			}
			var chunks []byte
			for rest := whole[24:]; len(rest) > 0; {
				n := min(len(rest), 60_000)
				last := byte('C')
				if n == len(rest) {
					last = 'F'
				}
				chunks = append(chunks, frame("MSG"+string(last), append(bytes.Clone(whole[8:24]), rest[:n]...))...)
				rest = rest[n:]
			}
			return raw(chunks)
		})
	}
	for name, chunk := range frames {
		try(name, func(uint32) any { return raw(chunk) })
	}
	try("chunks without end", func(number uint32) any {
		head := bytes.Join([][]byte{le(1), le(1), le(1), le(number)}, nil)
		return raw(bytes.Repeat(frame("MSGC", append(head, make([]byte, 60_000)...)), 300)) // 18 MB, of 16 that are allowed
	})
	try("another response", func(number uint32) any { return raw(message(number, 1, &ua.ReadResponse{})) })
	try("an abort", func(number uint32) any {
		return raw(frame("MSGA", bytes.Join([][]byte{le(1), le(1), le(1), le(number), le(uint32(ua.StatusBadTCPMessageTooLarge)), le(0xffffffff)}, nil)))
	})
}

// Servers that are hostile before there is a session.
func TestHostileBeginning(t *testing.T) {
	t.Parallel()
	for request, response := range map[string]ua.Response{
		"OpenSecureChannel":    &ua.OpenSecureChannelResponse{},
		"GetEndpoints":         &ua.GetEndpointsResponse{},
		"CreateSession":        &ua.CreateSessionResponse{},
		"ActivateSession":      &ua.ActivateSessionResponse{},
		"Read":                 &ua.ReadResponse{},
		"CreateSubscription":   &ua.CreateSubscriptionResponse{},
		"CreateMonitoredItems": &ua.CreateMonitoredItemsResponse{},
	} {
		t.Run(request, func(t *testing.T) {
			t.Parallel()
			f := mustFake(t)
			var asked atomic.Int32
			body := hostile()
			f.on(request, func(req ua.Request) any {
				number := req.Header().RequestHandle
				switch n := asked.Add(1); {
				case n == 1:
					return raw(enclose(number, 1, response, body["diagnostics in themselves"][:5000]))
				case request == "CreateSubscription": // any number is an id
				case n == 2:
					return raw(enclose(number, 1, response, append(responseBody(), bytes.Repeat([]byte{0xee}, 100)...)))
				case n == 3:
					return raw(enclose(number, 1, response, append(responseBody(), make([]byte, 200)...)))
				}
				return nil
			})
			var told atomic.Bool
			f.on("Publish", func(ua.Request) any {
				if told.Swap(true) {
					return silence{}
				}
				return published(notification(1, "well"))
			})
			mustServeFake(t, f).await("well")
		})
	}
}

// A channel gets another token before the one that it has ends, and what is asked for meanwhile is answered.
func TestTokenIsRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := opcuatest.MustCertificate(t, dir, "client", "urn:loopmq:test")
	server := opcuatest.Start(t, nil)
	e := &Endpoint{Name: "e", URL: opcuatest.URL(server.Addr()), RequestTimeout: fakeWait, Security: Security{
		Policy: PolicyBasic256Sha256, Certificate: cert.Raw, Key: key, Trusted: []*x509.Certificate{server.Certificate},
	}}
	if err := e.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	d, err := e.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.connect(t.Context(), d, fakeWait)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	first := c.writing.token
	for range 3 {
		var asking sync.WaitGroup
		for range 5 {
			asking.Go(func() {
				if _, err := request[ua.GetEndpointsResponse](t.Context(), c.channel, fakeWait, nil, &ua.GetEndpointsRequest{EndpointURL: e.URL}); err != nil {
					t.Errorf("while the token is renewed: %v", err)
				}
			})
		}
		if err := c.open(t.Context(), ua.SecurityTokenRequestTypeRenew); err != nil {
			t.Fatal(err)
		}
		asking.Wait()
	}
	if now := c.writing.token; now.channel != first.channel || now.id == first.id {
		t.Errorf("token %d of channel %d, after %d of %d", now.id, now.channel, first.id, first.channel)
	}
}

// A server whose tokens hold for a moment is asked for others, again and again.
func TestShortTokens(t *testing.T) {
	t.Parallel()
	f := mustFake(t)
	again := make(chan struct{})
	var opened atomic.Int32
	f.on("OpenSecureChannel", func(ua.Request) any {
		if opened.Add(1) == 4 { // after those of GetEndpoints and of the connection
			close(again)
		}
		return &ua.OpenSecureChannelResponse{SecurityToken: &ua.ChannelSecurityToken{ChannelID: 1, TokenID: 1, RevisedLifetime: 1}}
	})
	mustServeFake(t, f)
	select {
	case <-again:
	case <-time.After(fakeWait):
		t.Fatal("the token isn't renewed")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.mu.asked["CreateSession"]; n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// FuzzResponse: what passes the look at it is decoded without panic, and without more memory than it was allowed.
func FuzzResponse(f *testing.F) {
	for _, body := range hostile() {
		f.Add(body, byte(0))
	}
	for i, r := range responses {
		b, err := ua.Encode(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, byte(i))
	}
	n, err := ua.Encode(published(notification(1, []float64{1, 2})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(responseBody(), n...), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, which byte) {
		const messageMax = 1 << 16
		to := reflect.TypeOf(responses[int(which)%len(responses)])
		if _, err := wire.Check(b, to, messageMax); err != nil {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = ua.Decode(b, reflect.New(to.Elem()).Interface())
		runtime.ReadMemStats(&after)
		// The names of what it decodes, for its errors, are garbage at once.
		if used := after.TotalAlloc - before.TotalAlloc; used > 64*16*messageMax {
			t.Fatalf("%d bytes of memory for %d", used, len(b))
		}
	})
}

var responses = []ua.Response{
	&ua.PublishResponse{ResponseHeader: header(), NotificationMessage: &ua.NotificationMessage{}}, &ua.ReadResponse{ResponseHeader: header()},
	&ua.BrowseResponse{ResponseHeader: header()}, &ua.GetEndpointsResponse{ResponseHeader: header()},
	&ua.CreateSessionResponse{ResponseHeader: header(), SessionID: ua.NewTwoByteNodeID(1), AuthenticationToken: ua.NewTwoByteNodeID(1), ServerSignature: &ua.SignatureData{}},
	&ua.CallResponse{ResponseHeader: header()}, &ua.TranslateBrowsePathsToNodeIDsResponse{ResponseHeader: header()}, &ua.CreateMonitoredItemsResponse{ResponseHeader: header()},
}

func header() *ua.ResponseHeader {
	return &ua.ResponseHeader{ServiceDiagnostics: &ua.DiagnosticInfo{}, AdditionalHeader: ua.NewExtensionObject(nil)}
}

// FuzzChunk: no chunk makes the receiver panic, whatever is signed or encrypted.
func FuzzChunk(f *testing.F) {
	f.Add(message(1, 1, &ua.ActivateSessionResponse{})[:40])
	f.Add(message(1, 1, &ua.OpenSecureChannelResponse{SecurityToken: &ua.ChannelSecurityToken{}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < frameHeader {
			return
		}
		for _, c := range someChannels() {
			if body, err := c.unwrap(bytes.Clone(b)); err == nil && len(body) < sequenceHeader {
				t.Fatalf("%x has no sequence header", b)
			}
		}
	})
}

// someChannels are channels whose peer has a token: without security, signed, and encrypted.
var someChannels = sync.OnceValue(func() (all []*channel) {
	key := mustKey(2048)
	for _, mode := range []ua.MessageSecurityMode{ua.MessageSecurityModeNone, ua.MessageSecurityModeSign, ua.MessageSecurityModeSignAndEncrypt} {
		c := &channel{mode: mode, policy: ua.SecurityPolicyURINone}
		if mode != ua.MessageSecurityModeNone {
			c.policy = ua.SecurityPolicyURIBasic256Sha256
		}
		var err error
		if c.asymmetric, err = uapolicy.Asymmetric(c.policy, key, &key.PublicKey); err != nil {
			panic(err)
		}
		c.mu.tokens[0] = token{channel: 1, id: 1}
		if c.mu.tokens[0].algorithm, err = uapolicy.Symmetric(c.policy, make([]byte, 32), make([]byte, 32)); err != nil {
			panic(err)
		}
		all = append(all, c)
	}
	return all
})

func mustKey(bits int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return key
}
