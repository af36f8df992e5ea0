package opcuaserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // thumbprints are SHA-1
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uapolicy"
	"github.com/gopcua/opcua/uasc"

	"loopmq/bridges/opcua/wire"
)

// who has a certificate and a key.
type who struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

var keyOf = [4]func() *rsa.PrivateKey{}

func init() {
	for i := range keyOf {
		keyOf[i] = sync.OnceValue(func() *rsa.PrivateKey {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				panic(err)
			}
			return key
		})
	}
}

// mustBe makes a certificate of one of the keys, signed by another one or by itself.
func mustBe(t testing.TB, key int, by *who, change ...func(*x509.Certificate)) who {
	t.Helper()
	uri, err := url.Parse("urn:test")
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(int64(key) + 1), Subject: pkix.Name{CommonName: string(rune('a' + key))}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageDataEncipherment, URIs: []*url.URL{uri}, BasicConstraintsValid: true,
	}
	for _, f := range change {
		f(c)
	}
	w := who{c, keyOf[key]()}
	if by == nil {
		by = &w
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, &w.key.PublicKey, by.key)
	if err == nil {
		w.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
}

// guarded is a server that believes one application and one user.
func guarded(t testing.TB) (s *server, own, application, other, user who) {
	own, application, other, user = mustBe(t, 0, nil), mustBe(t, 1, nil), mustBe(t, 2, nil), mustBe(t, 3, nil)
	return alone(t, func(o *Options) {
		o.None, o.Anonymous, o.Basic256Sha256, o.Certificate, o.Key = false, false, true, own.cert, own.key
		o.Trusted, o.TrustedUsers = []*x509.Certificate{application.cert, other.cert}, []*x509.Certificate{user.cert}
	}), own, application, other, user
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca, stranger := mustBe(t, 0, nil, authority), mustBe(t, 1, nil, authority)
	trusted, expired := mustBe(t, 2, nil), mustBe(t, 3, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	future := mustBe(t, 3, nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	useless := mustBe(t, 3, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDataEncipherment })
	between := mustBe(t, 2, &ca, authority)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	bare := *trusted.cert
	bare.PublicKey, bare.SignatureAlgorithm = nil, x509.UnknownSignatureAlgorithm
	short, err := x509.CreateCertificate(rand.Reader, &bare, &bare, &weak.PublicKey, weak)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	elliptic, err := x509.CreateCertificate(rand.Reader, &bare, &bare, &curve.PublicKey, curve)
	if err != nil {
		t.Fatal(err)
	}
	list, err := newTrust([][]byte{ca.cert.Raw, trusted.cert.Raw, expired.cert.Raw, future.cert.Raw, useless.cert.Raw, short, elliptic})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		der  []byte
		want ua.StatusCode
	}{
		"itself":                {trusted.cert.Raw, ua.StatusOK},
		"a CA's":                {mustBe(t, 3, &ca).cert.Raw, ua.StatusOK},
		"a CA's CA's":           {append(mustBe(t, 3, &between).cert.Raw, between.cert.Raw...), ua.StatusOK},
		"without its CA":        {mustBe(t, 3, &between).cert.Raw, ua.StatusBadCertificateUntrusted},
		"a stranger's":          {mustBe(t, 3, nil).cert.Raw, ua.StatusBadCertificateUntrusted},
		"another CA's":          {append(mustBe(t, 3, &stranger).cert.Raw, stranger.cert.Raw...), ua.StatusBadCertificateUntrusted},
		"by an application":     {mustBe(t, 3, &trusted).cert.Raw, ua.StatusBadCertificateUntrusted},
		"the same, expired":     {expired.cert.Raw, ua.StatusBadCertificateTimeInvalid},
		"not yet valid":         {future.cert.Raw, ua.StatusBadCertificateTimeInvalid},
		"a CA's, expired":       {mustBe(t, 3, &ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }).cert.Raw, ua.StatusBadCertificateTimeInvalid},
		"not for signatures":    {useless.cert.Raw, ua.StatusBadCertificateUseNotAllowed},
		"a short key":           {short, ua.StatusBadCertificatePolicyCheckFailed},
		"a key of another kind": {elliptic, ua.StatusBadCertificatePolicyCheckFailed},
		"junk":                  {[]byte("junk"), ua.StatusBadCertificateInvalid},
		"nothing":               {nil, ua.StatusBadCertificateInvalid},
		"a long chain":          {bytes.Repeat(trusted.cert.Raw, chainMax+1), ua.StatusBadCertificateInvalid},
	} {
		if cert, got, err := list.verify(tt.der, time.Now()); got != tt.want || (err == nil) != (tt.want == ua.StatusOK) || (cert != nil) != (err == nil) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, tt.want)
		}
	}
}

// opening is how a client opens a channel.
type opening struct {
	who        who
	thumbprint [sha1.Size]byte
	mode       ua.MessageSecurityMode
	nonce      int
	kind       ua.SecurityTokenRequestType
}

// peer is a client of a server, by its bytes.
type peer struct {
	t             testing.TB
	s             *server
	own           who // the server's
	c             *channel
	conn          net.Conn
	number, token uint32
	symmetric     *uapolicy.EncryptionAlgorithm
	its           who
}

func mustPeer(t testing.TB, s *server, own, its who) *peer {
	t.Helper()
	a, b := net.Pipe()
	c := &channel{s: s, conn: b, out: make(chan response, responsesWaiting), closed: make(chan struct{})}
	if !s.admit(c) {
		t.Fatal("not admitted")
	}
	_ = a.SetDeadline(time.Now().Add(time.Minute))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(c)
	}()
	t.Cleanup(func() {
		_ = a.Close()
		<-done
	})
	p := &peer{t: t, s: s, own: own, c: c, conn: a, its: its}
	hello, err := ua.Encode(&uacp.Hello{ReceiveBufSize: chunkMax, SendBufSize: chunkMax})
	if err != nil {
		t.Fatal(err)
	}
	p.write(append(binary.LittleEndian.AppendUint32([]byte("HELF"), uint32(8+len(hello))), hello...))
	if b := p.read(); string(b[:4]) != "ACKF" {
		t.Fatalf("hello: %q", b)
	}
	return p
}

func (p *peer) write(b []byte) { _, _ = p.conn.Write(b) } // the server may have ended it: what it says is read

func (p *peer) read() []byte {
	p.t.Helper()
	head := make([]byte, 8)
	if _, err := io.ReadFull(p.conn, head); err != nil {
		p.t.Fatal(err)
	}
	b := append(head, make([]byte, binary.LittleEndian.Uint32(head[4:])-8)...)
	if _, err := io.ReadFull(p.conn, b[8:]); err != nil {
		p.t.Fatal(err)
	}
	return b
}

// ended is what an error says; nil: it is none.
func ended(t testing.TB, b []byte) error {
	t.Helper()
	if string(b[:3]) != "ERR" {
		return nil
	}
	var e uacp.Error
	if _, err := e.Decode(b[8:]); err != nil {
		t.Fatal(err)
	}
	return ua.StatusCode(e.ErrorCode)
}

// chunk sends a secured chunk.
func (p *peer) chunk(kind string, head []byte, algo *uapolicy.EncryptionAlgorithm, mode ua.MessageSecurityMode, body []byte) {
	p.t.Helper()
	p.number++
	b := append([]byte(kind), make([]byte, 4)...)
	b = append(b, head...)
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, p.number)
	b = append(binary.LittleEndian.AppendUint32(b, 1), body...)
	b, err := wire.Secure(algo, b, at, mode)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(b)
}

func encoded(t testing.TB, q ua.Request) []byte {
	t.Helper()
	q.SetHeader(&ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0), AdditionalHeader: ua.NewExtensionObject(nil)})
	service, err := ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(q)).Encode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ua.Encode(q)
	if err != nil {
		t.Fatal(err)
	}
	return append(service, b...)
}

// open opens the channel, or gets a new token.
func (p *peer) open(change func(*opening)) error {
	p.t.Helper()
	o := opening{who: p.its, thumbprint: sha1.Sum(p.own.cert.Raw), mode: ua.MessageSecurityModeSignAndEncrypt, nonce: 32} //nolint:gosec // see the import
	if p.token > 0 {
		o.kind = ua.SecurityTokenRequestTypeRenew
	}
	if change != nil {
		change(&o)
	}
	algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURIBasic256Sha256, o.who.key, &p.own.key.PublicKey)
	if err != nil {
		p.t.Fatal(err)
	}
	head, err := uasc.NewAsymmetricSecurityHeader(ua.SecurityPolicyURIBasic256Sha256, o.who.cert.Raw, o.thumbprint[:]).Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	var channel uint32
	if p.token > 0 {
		channel = p.c.id
	}
	nonce := bytes.Repeat([]byte{7}, o.nonce)
	p.chunk("OPNF", append(binary.LittleEndian.AppendUint32(nil, channel), head...), algo, ua.MessageSecurityModeSignAndEncrypt, encoded(p.t, &ua.OpenSecureChannelRequest{
		RequestType: o.kind, SecurityMode: o.mode, ClientNonce: nonce, RequestedLifetime: 60_000,
	}))
	b := p.read()
	if err := ended(p.t, b); err != nil {
		return err
	}
	var h uasc.AsymmetricSecurityHeader
	n, err := h.Decode(b[headerSize:])
	if err != nil {
		p.t.Fatal(err)
	}
	plain, err := wire.Unsecure(algo, b, headerSize+n, ua.MessageSecurityModeSignAndEncrypt)
	if err != nil {
		p.t.Fatal(err)
	}
	var r ua.OpenSecureChannelResponse
	if _, err := ua.Decode(plain[8+4:], &r); err != nil { // behind the sequence header and the type
		p.t.Fatal(err)
	}
	p.token = r.SecurityToken.TokenID
	p.symmetric, err = uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, nonce, r.ServerNonce)
	if err != nil {
		p.t.Fatal(err)
	}
	return nil
}

// ask sends a request with the last token, and returns why the connection ended, if it did.
func (p *peer) ask(kind string, body []byte) error {
	p.t.Helper()
	p.chunk(kind, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, p.c.id), p.token), p.symmetric, ua.MessageSecurityModeSignAndEncrypt, body)
	if kind == "MSGC" {
		return nil
	}
	return ended(p.t, p.read())
}

func TestWhoMayOpenAChannel(t *testing.T) {
	t.Parallel()
	s, own, application, other, _ := guarded(t)
	stranger := who{mustBe(t, 3, nil).cert, keyOf[3]()}
	for name, tt := range map[string]struct {
		change func(*opening)
		want   error
	}{
		"as it should be":       {nil, nil},
		"to another server":     {func(o *opening) { o.thumbprint[0]++ }, ua.StatusBadCertificateInvalid},
		"a stranger":            {func(o *opening) { o.who = stranger }, ua.StatusBadCertificateUntrusted},
		"without the key":       {func(o *opening) { o.who.key = stranger.key }, ua.StatusBadSecurityChecksFailed},
		"signed only":           {func(o *opening) { o.mode = ua.MessageSecurityModeSign }, ua.StatusBadSecurityModeRejected},
		"without security":      {func(o *opening) { o.mode = ua.MessageSecurityModeNone }, ua.StatusBadSecurityModeRejected},
		"a short nonce":         {func(o *opening) { o.nonce = 31 }, ua.StatusBadNonceInvalid},
		"renewed before opened": {func(o *opening) { o.kind = ua.SecurityTokenRequestTypeRenew }, ua.StatusBadRequestTypeInvalid},
	} {
		if err := mustPeer(t, s, own, application).open(tt.change); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	ask := encoded(t, &ua.GetEndpointsRequest{})
	for name, tt := range map[string]struct {
		then func(*peer) error
		want error
	}{
		"renewed":                  {func(p *peer) error { return errors.Join(p.open(nil), p.ask("MSGF", ask)) }, nil},
		"renewed by another":       {func(p *peer) error { return p.open(func(o *opening) { o.who = other }) }, ua.StatusBadSecurityChecksFailed},
		"opened twice":             {func(p *peer) error { return p.open(func(o *opening) { o.kind = ua.SecurityTokenRequestTypeIssue }) }, ua.StatusBadRequestTypeInvalid},
		"renewed in another mode":  {func(p *peer) error { return p.open(func(o *opening) { o.mode = ua.MessageSecurityModeSign }) }, ua.StatusBadSecurityModeRejected},
		"a number left out":        {func(p *peer) error { p.number++; return p.ask("MSGF", ask) }, ua.StatusBadSequenceNumberInvalid},
		"a token that has expired": {func(p *peer) error { p.c.tokens[0].expires = time.Now(); return p.ask("MSGF", ask) }, ua.StatusBadSecureChannelTokenUnknown},
		"secured otherwise": {func(p *peer) (err error) {
			p.symmetric, err = uapolicy.Symmetric(ua.SecurityPolicyURIBasic256Sha256, make([]byte, 32), make([]byte, 32))
			return errors.Join(err, p.ask("MSGF", ask))
		}, ua.StatusBadSecurityChecksFailed},
		"much before there is a session": {func(p *peer) error {
			return errors.Join(p.ask("MSGC", make([]byte, bytesBeforeSession/2)), p.ask("MSGC", make([]byte, bytesBeforeSession/2)), p.ask("MSGF", ask))
		}, ua.StatusBadTCPMessageTooLarge},
	} {
		p := mustPeer(t, s, own, application)
		if err := p.open(nil); err != nil {
			t.Fatal(err)
		}
		if err := p.ask("MSGF", ask); err != nil {
			t.Fatal(err)
		}
		if err := tt.then(p); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// channelOf is a channel that an application has opened.
func (s *server) channelOf(t testing.TB, its who) *channel {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { _ = a.Close() })
	c := &channel{s: s, conn: b, out: make(chan response, 100), closed: make(chan struct{}), policy: ua.SecurityPolicyURIBasic256Sha256, certificate: its.cert, raw: its.cert.Raw}
	if !s.admit(c) {
		t.Fatal("not admitted")
	}
	return c
}

func TestWhoMayHaveASession(t *testing.T) {
	t.Parallel()
	s, own, application, other, user := guarded(t)
	c := s.channelOf(t, application)
	create := func(c *channel, change func(*ua.CreateSessionRequest)) (*session, error) {
		q := &ua.CreateSessionRequest{
			RequestHeader: &ua.RequestHeader{}, ClientDescription: &ua.ApplicationDescription{ApplicationURI: "urn:test"}, ClientCertificate: application.cert.Raw, ClientNonce: make([]byte, 32),
		}
		if change != nil {
			change(q)
		}
		r, err := s.createSession(c, q)
		if err != nil {
			return nil, err
		}
		return s.mu.sessions[r.(*ua.CreateSessionResponse).AuthenticationToken.String()], nil
	}
	for name, tt := range map[string]struct {
		change func(*ua.CreateSessionRequest)
		want   error
	}{
		"another URI":         {func(q *ua.CreateSessionRequest) { q.ClientDescription.ApplicationURI = "urn:x" }, ua.StatusBadCertificateURIInvalid},
		"another certificate": {func(q *ua.CreateSessionRequest) { q.ClientCertificate = other.cert.Raw }, ua.StatusBadCertificateInvalid},
		"a short nonce":       {func(q *ua.CreateSessionRequest) { q.ClientNonce = make([]byte, 31) }, ua.StatusBadNonceInvalid},
	} {
		if _, err := create(c, tt.change); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	clear := &channel{s: s, policy: ua.SecurityPolicyURINone}
	if _, err := create(clear, nil); !errors.Is(err, ua.StatusBadSecurityModeInsufficient) {
		t.Errorf("without a policy: %v", err)
	}

	signed := func(by who, nonce []byte) *ua.SignatureData {
		t.Helper()
		algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURIBasic256Sha256, by.key, &own.key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := algo.Signature(joined(own.cert.Raw, nonce))
		if err != nil {
			t.Fatal(err)
		}
		return &ua.SignatureData{Signature: signature}
	}
	algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURIBasic256Sha256, application.key, &own.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	password := func(name string, nonce []byte) *ua.ExtensionObject {
		t.Helper()
		text := append([]byte("secret"), nonce...)
		sealed, err := algo.Encrypt(append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...))
		if err != nil {
			t.Fatal(err)
		}
		return ua.NewExtensionObject(&ua.UserNameIdentityToken{UserName: name, Password: sealed, EncryptionAlgorithm: algo.EncryptionURI()})
	}
	activate := func(c *channel, ss *session, by who, token *ua.ExtensionObject, nonce []byte, signature *ua.SignatureData) error {
		_, err := s.activateSession(c, &ua.ActivateSessionRequest{
			RequestHeader: &ua.RequestHeader{AuthenticationToken: ss.token}, ClientSignature: signed(by, nonce), UserIdentityToken: token, UserTokenSignature: signature,
		})
		return err
	}
	ss, err := create(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	stale := random()
	certificate := ua.NewExtensionObject(&ua.X509IdentityToken{CertificateData: user.cert.Raw})
	for name, tt := range map[string]struct {
		by        who
		token     *ua.ExtensionObject
		nonce     []byte
		signature *ua.SignatureData
		want      error
	}{
		"another application's signature": {other, password("u", ss.nonce), ss.nonce, nil, ua.StatusBadApplicationSignatureInvalid},
		"a signature of something else":   {application, password("u", ss.nonce), stale, nil, ua.StatusBadApplicationSignatureInvalid},
		"nobody":                          {application, nil, ss.nonce, nil, ua.StatusBadIdentityTokenRejected},
		"anonymous":                       {application, ua.NewExtensionObject(&ua.AnonymousIdentityToken{}), ss.nonce, nil, ua.StatusBadIdentityTokenRejected},
		"a password for another session":  {application, password("u", stale), ss.nonce, nil, ua.StatusBadIdentityTokenInvalid},
		"a password without a nonce":      {application, password("u", nil), ss.nonce, nil, ua.StatusBadIdentityTokenInvalid},
		"a plain password":                {application, ua.NewExtensionObject(&ua.UserNameIdentityToken{UserName: "u", Password: []byte("secret")}), ss.nonce, nil, ua.StatusBadIdentityTokenInvalid},
		"another user's signature":        {application, certificate, ss.nonce, signed(other, ss.nonce), ua.StatusBadUserSignatureInvalid},
		"a user's signature from before":  {application, certificate, ss.nonce, signed(user, stale), ua.StatusBadUserSignatureInvalid},
		"an unknown user":                 {application, ua.NewExtensionObject(&ua.X509IdentityToken{CertificateData: other.cert.Raw}), ss.nonce, signed(other, ss.nonce), ua.StatusBadIdentityTokenRejected},
	} {
		if err := activate(c, ss, tt.by, tt.token, tt.nonce, tt.signature); !errors.Is(err, tt.want) || ss.activated {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	// Until it has a user, it can't move, and a request ends it.
	next, foreign := s.channelOf(t, application), s.channelOf(t, other)
	if err := activate(next, ss, application, password("u", ss.nonce), ss.nonce, nil); !errors.Is(err, ua.StatusBadSecureChannelIDInvalid) {
		t.Errorf("by another channel, before it has a user: %v", err)
	}
	h := &ua.RequestHeader{AuthenticationToken: ss.token}
	if _, err := s.sessionOf(c, h); !errors.Is(err, ua.StatusBadSessionNotActivated) || !ss.over {
		t.Errorf("a request without a user: %v, over: %v", err, ss.over)
	}

	if ss, err = create(c, nil); err != nil {
		t.Fatal(err)
	}
	h.AuthenticationToken = ss.token
	first := ss.nonce
	if err := activate(c, ss, application, password("u", first), first, nil); err != nil {
		t.Fatal(err)
	}
	if err := activate(c, ss, application, password("u", first), first, nil); !errors.Is(err, ua.StatusBadApplicationSignatureInvalid) {
		t.Errorf("what was said before: %v", err)
	}
	if _, err := s.sessionOf(c, h); err != nil {
		t.Errorf("a request: %v", err)
	}
	if _, err := s.sessionOf(next, h); !errors.Is(err, ua.StatusBadSecureChannelIDInvalid) {
		t.Errorf("a request by another channel: %v", err)
	}
	// It moves with its application and its user only.
	if err := activate(foreign, ss, other, password("u", ss.nonce), ss.nonce, nil); !errors.Is(err, ua.StatusBadSecurityChecksFailed) {
		t.Errorf("by another application: %v", err)
	}
	if err := activate(next, ss, application, password("v", ss.nonce), ss.nonce, nil); !errors.Is(err, ua.StatusBadIdentityChangeNotSupported) {
		t.Errorf("by another user: %v", err)
	}
	if ss.channel != c {
		t.Error("it has moved")
	}
	if err := activate(next, ss, application, password("u", ss.nonce), ss.nonce, nil); err != nil || ss.channel != next {
		t.Errorf("by another channel: %v", err)
	}
	if _, err := s.sessionOf(c, h); !errors.Is(err, ua.StatusBadSecureChannelIDInvalid) {
		t.Errorf("a request by the channel before: %v", err)
	}
}

// Items of topics that a user may not read tell nothing.
func TestItemsWithoutRights(t *testing.T) {
	t.Parallel()
	s := alone(t)
	s.apply([]Value{{Topic: "secret/a", Payload: []byte("1")}})
	c := &channel{s: s, out: make(chan response, 1), closed: make(chan struct{})}
	ss := &session{channel: c, activated: true, handle: 1, subscriptions: map[uint32]*subscription{}, rights: map[question]right{}}
	r, err := s.createSubscription(ss, &ua.CreateSubscriptionRequest{RequestHeader: &ua.RequestHeader{}, PublishingEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	sub := ss.subscriptions[r.(*ua.CreateSubscriptionResponse).SubscriptionID]
	q := &ua.MonitoredItemCreateRequest{
		ItemToMonitor:  &ua.ReadValueID{NodeID: ua.NewStringNodeID(nsTopics, "secret/a"), AttributeID: ua.AttributeIDValue},
		MonitoringMode: ua.MonitoringModeReporting, RequestedParameters: &ua.MonitoringParameters{QueueSize: 10, DiscardOldest: true},
	}
	create := &ua.CreateMonitoredItemsRequest{RequestHeader: &ua.RequestHeader{}, SubscriptionID: sub.id, ItemsToCreate: []*ua.MonitoredItemCreateRequest{q}}
	if r, err := s.createMonitoredItems(ss, create); err != nil || r.(*ua.CreateMonitoredItemsResponse).Results[0].StatusCode != ua.StatusBadUserAccessDenied {
		t.Errorf("an item: %+v (%v)", r, err)
	}
	// The right is lost while values wait.
	ss.rights[question{"secret/a", false}] = right{true, time.Now().Add(time.Hour)}
	if _, err := s.createMonitoredItems(ss, create); err != nil {
		t.Fatal(err)
	}
	s.apply([]Value{{Topic: "secret/a", Payload: []byte("2")}})
	s.recheck(ss, map[string]struct{}{"secret/a": {}})
	s.apply([]Value{{Topic: "secret/a", Payload: []byte("3")}})
	m := s.nextLocked(sub)
	items := m.NotificationData[0].Value.(*ua.DataChangeNotification).MonitoredItems
	if len(items) != 1 || items[0].Value.Status != ua.StatusBadUserAccessDenied || items[0].Value.Value != nil {
		t.Errorf("was told %+v", items)
	}
}

// Responses that are larger than the client takes, or than the server makes, are not sent.
func TestLargeResponses(t *testing.T) {
	t.Parallel()
	s := alone(t)
	s.apply([]Value{{Topic: "plant/a", Payload: bytes.Repeat([]byte("x"), 32<<10)}})
	ss := &session{handle: 1, rights: map[question]right{}}
	q := &ua.ReadRequest{RequestHeader: &ua.RequestHeader{}}
	for range responseMax/(32<<10) + 1 {
		q.NodesToRead = append(q.NodesToRead, &ua.ReadValueID{NodeID: ua.NewStringNodeID(nsTopics, "plant/a"), AttributeID: ua.AttributeIDValue})
	}
	if _, err := s.readNodes(ss, q); !errors.Is(err, ua.StatusBadResponseTooLarge) {
		t.Errorf("a large response: %v", err)
	}
	q.NodesToRead = q.NodesToRead[:8]
	r, err := s.readNodes(ss, q)
	if err != nil {
		t.Fatal(err)
	}
	algo, err := uapolicy.Symmetric(ua.SecurityPolicyURINone, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		messageMax, chunksMax uint32
		fault                 bool
	}{
		"no limits":    {0, 0, false},
		"more bytes":   {1 << 20, 10, false},
		"fewer bytes":  {1 << 16, 0, true},
		"fewer chunks": {0, 3, true},
	} {
		a, b := net.Pipe()
		c := &channel{s: s, conn: b, mode: ua.MessageSecurityModeNone, sendMax: chunkMax, messageMax: tt.messageMax, chunksMax: tt.chunksMax}
		c.sending.Store(&token{algo: algo})
		done := make(chan error, 1)
		go func() {
			done <- c.writeResponse(&response{body: r})
			_ = b.Close()
		}()
		got, err := io.ReadAll(a)
		if err != nil || <-done != nil {
			t.Fatal(err)
		}
		fault := bytes.Contains(got, binary.LittleEndian.AppendUint32(nil, uint32(ua.StatusBadResponseTooLarge)))
		if fault != tt.fault || (len(got) < 1000) != tt.fault {
			t.Errorf("%s: %d bytes, fault: %v", name, len(got), fault)
		}
	}
}
