package opcuaserver

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"net/url"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

const (
	nonceSize = 32
	// activationTimeout is how long a session may wait for its user.
	activationTimeout = 10 * time.Second
	sessionTimeoutMin = 10 * time.Second
	// channelIdle is how long a channel may be without a session.
	channelIdle = time.Minute
	// rightsTTL is for how long it is known what a user may do.
	rightsTTL = 10 * time.Second
	// passwordMax bounds an encrypted password, nameMax the name of a session.
	passwordMax = 4096
	nameMax     = 256

	transport = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
	product   = "urn:loopmq"
)

// The ids of user token policies.
const (
	policyAnonymous   = "anonymous"
	policyPlain       = "username"
	policyPassword    = "username_basic256sha256"
	policyCertificate = "certificate_basic256sha256"
)

// session is a client's, from CreateSession to its end. What changes is guarded by the server's lock.
type session struct {
	id, token   *ua.NodeID
	name        string
	certificate []byte // the client's
	created     time.Time
	timeout     time.Duration

	channel   *channel
	seen      time.Time
	nonce     []byte // the server's last one
	activated bool
	handle    uint64
	username  string
	over      bool

	subscriptions map[uint32]*subscription
	publishes     []publishing
	continuations []*continuation
	rights        map[question]right
	checked       time.Time // when the rights of its items were
}

type question struct {
	topic string
	write bool
}

type right struct {
	allowed bool
	until   time.Time
}

// offers reports whether there is an endpoint with a policy.
func (s *server) offers(policy string) bool {
	return policy == ua.SecurityPolicyURINone && s.setup.None || policy == ua.SecurityPolicyURIBasic256Sha256 && s.setup.Basic256Sha256
}

// endpoints describes the endpoints, under the URL by which the client has found the server.
func (s *server) endpoints(at string) (all []*ua.EndpointDescription) {
	at = endpointURL(at)
	add := func(policy string, mode ua.MessageSecurityMode) {
		all = append(all, &ua.EndpointDescription{
			EndpointURL: at, Server: s.application(at), ServerCertificate: s.certificate, SecurityMode: mode, SecurityPolicyURI: policy,
			UserIdentityTokens: s.tokenPolicies(), TransportProfileURI: transport, SecurityLevel: uapolicy.SecurityLevel(policy, mode),
		})
	}
	if s.setup.Basic256Sha256 {
		add(ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSignAndEncrypt)
		if s.setup.AllowSign {
			add(ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSign)
		}
	}
	if s.setup.None {
		add(ua.SecurityPolicyURINone, ua.MessageSecurityModeNone)
	}
	return all
}

// endpointURL is a client's URL if it is one.
func endpointURL(at string) string {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "opc.tcp" || u.Host == "" || len(at) > 1024 {
		return "opc.tcp://localhost"
	}
	return at
}

func (s *server) application(at string) *ua.ApplicationDescription {
	return &ua.ApplicationDescription{
		ApplicationURI: s.setup.ApplicationURI, ProductURI: product, ApplicationName: ua.NewLocalizedText(s.setup.ApplicationName),
		ApplicationType: ua.ApplicationTypeServer, DiscoveryURLs: []string{at},
	}
}

func (s *server) tokenPolicies() (all []*ua.UserTokenPolicy) {
	if s.setup.Anonymous {
		all = append(all, &ua.UserTokenPolicy{PolicyID: policyAnonymous, TokenType: ua.UserTokenTypeAnonymous, SecurityPolicyURI: ua.SecurityPolicyURINone})
	}
	if s.key != nil {
		all = append(all, &ua.UserTokenPolicy{PolicyID: policyPassword, TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: ua.SecurityPolicyURIBasic256Sha256})
		if len(s.setup.TrustedUsers) > 0 {
			all = append(all, &ua.UserTokenPolicy{PolicyID: policyCertificate, TokenType: ua.UserTokenTypeCertificate, SecurityPolicyURI: ua.SecurityPolicyURIBasic256Sha256})
		}
	}
	if s.setup.PlainPassword {
		all = append(all, &ua.UserTokenPolicy{PolicyID: policyPlain, TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: ua.SecurityPolicyURINone})
	}
	return all
}

func (s *server) getEndpoints(q *ua.GetEndpointsRequest) ua.Response {
	r := &ua.GetEndpointsResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	wanted := len(q.ProfileURIs) == 0
	for _, p := range q.ProfileURIs {
		wanted = wanted || p == transport
	}
	if wanted {
		r.Endpoints = s.endpoints(q.EndpointURL)
	}
	return r
}

func (s *server) findServers(q *ua.FindServersRequest) ua.Response {
	r := &ua.FindServersResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	wanted := len(q.ServerURIs) == 0
	for _, u := range q.ServerURIs {
		wanted = wanted || u == s.setup.ApplicationURI
	}
	if wanted {
		r.Servers = []*ua.ApplicationDescription{s.application(endpointURL(q.EndpointURL))}
	}
	return r
}

// createSession begins a session, which can do nothing yet. [OPC 10000-4, 5.6.2]
func (s *server) createSession(c *channel, q *ua.CreateSessionRequest) (ua.Response, error) {
	if !s.offers(c.policy) {
		s.refuse(refusedCertificate)
		return nil, ua.StatusBadSecurityModeInsufficient
	}
	r := &ua.CreateSessionResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), ServerSignature: &ua.SignatureData{}, ServerCertificate: s.certificate}
	if c.certificate != nil {
		all, err := x509.ParseCertificates(q.ClientCertificate)
		switch {
		case err != nil || len(all) == 0 || !all[0].Equal(c.certificate):
			return nil, ua.StatusBadCertificateInvalid
		case !hasURI(c.certificate, q.ClientDescription.ApplicationURI):
			s.refuse(refusedCertificate)
			return nil, ua.StatusBadCertificateURIInvalid
		case len(q.ClientNonce) < nonceSize:
			return nil, ua.StatusBadNonceInvalid
		}
		if r.ServerSignature, err = s.sign(c, q.ClientCertificate, q.ClientNonce); err != nil {
			return nil, ua.StatusBadSecurityChecksFailed
		}
	}
	timeout := min(max(time.Duration(min(q.RequestedSessionTimeout, 1e9))*time.Millisecond, sessionTimeoutMin), s.setup.SessionTimeout)
	if !(q.RequestedSessionTimeout > 0) { // NaN isn't
		timeout = s.setup.SessionTimeout
	}
	now := time.Now()
	ss := &session{
		id: randomID(), token: randomID(), name: q.SessionName, created: now, seen: now, timeout: timeout, channel: c, nonce: random(),
		subscriptions: make(map[uint32]*subscription), rights: make(map[question]right), checked: now,
	}
	if len(ss.name) > nameMax {
		ss.name = ss.name[:nameMax]
	}
	if c.certificate != nil {
		ss.certificate = c.certificate.Raw
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.sessions) >= s.setup.Sessions && !s.makeRoomLocked() {
		s.refuse(refusedSessions)
		return nil, ua.StatusBadTooManySessions
	}
	s.mu.sessions[ss.token.String()] = ss
	r.SessionID, r.AuthenticationToken, r.RevisedSessionTimeout = ss.id, ss.token, float64(timeout/time.Millisecond)
	r.ServerNonce, r.ServerEndpoints, r.MaxRequestMessageSize = ss.nonce, s.endpoints(q.EndpointURL), uint32(s.setup.MessageBytes)
	return r, nil
}

// makeRoomLocked ends the oldest session that nobody is known to be in, if there is one.
func (s *server) makeRoomLocked() bool {
	var oldest *session
	for _, ss := range s.mu.sessions {
		if !ss.activated && (oldest == nil || ss.created.Before(oldest.created)) {
			oldest = ss
		}
	}
	if oldest != nil {
		s.endLocked(oldest)
	}
	return oldest != nil
}

// hasURI reports whether a certificate is for an application.
func hasURI(cert *x509.Certificate, uri string) bool {
	for _, u := range cert.URIs {
		if u.String() == uri {
			return true
		}
	}
	return false
}

// sign proves to a client who the server is.
func (s *server) sign(c *channel, parts ...[]byte) (*ua.SignatureData, error) {
	algo, err := uapolicy.Asymmetric(c.policy, s.key, c.certificate.PublicKey.(*rsa.PublicKey))
	if err != nil {
		return nil, err
	}
	signature, err := algo.Signature(joined(parts...))
	return &ua.SignatureData{Algorithm: algo.SignatureURI(), Signature: signature}, err
}

func joined(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func random() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // it never fails
	return b
}

func randomID() *ua.NodeID { return ua.NewByteStringNodeID(1, random()) }

// activateSession finds out who the user is. [OPC 10000-4, 5.6.3]
func (s *server) activateSession(c *channel, q *ua.ActivateSessionRequest) (ua.Response, error) {
	s.mu.Lock()
	ss := s.mu.sessions[q.RequestHeader.AuthenticationToken.String()]
	if ss == nil {
		s.mu.Unlock()
		return nil, ua.StatusBadSessionIDInvalid
	}
	nonce, moved, activated, username := ss.nonce, ss.channel != c, ss.activated, ss.username
	s.mu.Unlock()
	if moved && !activated {
		return nil, ua.StatusBadSecureChannelIDInvalid
	}
	if c.certificate != nil {
		algo, err := uapolicy.Asymmetric(c.policy, s.key, c.certificate.PublicKey.(*rsa.PublicKey))
		if err != nil || algo.VerifySignature(joined(s.certificate, nonce), q.ClientSignature.Signature) != nil {
			s.refuse(refusedCertificate)
			return nil, ua.StatusBadApplicationSignatureInvalid
		}
	}
	if moved { // to another connection, by the same application only
		var own []byte
		if c.certificate != nil {
			own = c.certificate.Raw
		}
		if string(own) != string(ss.certificate) {
			return nil, ua.StatusBadSecurityChecksFailed
		}
	}
	o, err := s.credentials(q, nonce)
	if err != nil {
		s.refuse(refusedCredentials)
		return nil, err
	}
	o.Address, o.Name = c.conn.RemoteAddr().String(), ss.name
	var opened Opened
	if err := s.call("Open", o, &opened); err != nil {
		return nil, err
	}
	if opened.Refusal != refusalNone {
		s.refuse(refusedCredentials)
		return nil, opened.Refusal.status(ua.StatusBadIdentityTokenRejected)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss.over || moved && username != opened.Username {
		s.discard(opened.Handle)
		return nil, ua.StatusBadIdentityChangeNotSupported
	}
	select {
	case <-c.closed:
		s.discard(opened.Handle)
		return nil, errClosed
	default:
	}
	if ss.activated {
		waiting := ss.publishes
		if ss.channel != c {
			waiting = nil
		}
		s.leaveLocked(ss)
		s.discard(ss.handle)
		ss.publishes = waiting // another user, or the same one again: what was asked by this connection still holds
	}
	ss.activated, ss.handle, ss.username, ss.channel, ss.seen, ss.nonce = true, opened.Handle, opened.Username, c, time.Now(), random()
	clear(ss.rights)
	ss.checked = time.Time{} // the items are another user's
	c.sessions++
	return &ua.ActivateSessionResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), ServerNonce: ss.nonce}, nil
}

// leaveLocked parts a session from its connection.
func (s *server) leaveLocked(ss *session) {
	if ss.channel == nil || !ss.activated {
		return
	}
	if ss.channel.sessions--; ss.channel.sessions == 0 {
		ss.channel.idle = time.Now()
	}
	ss.channel = nil
	ss.publishes = nil // their answers had to go there
}

// credentials returns what a token says of its user, as far as it can be checked here.
func (s *server) credentials(q *ua.ActivateSessionRequest, nonce []byte) (*Opening, error) {
	var value any
	if q.UserIdentityToken != nil {
		value = q.UserIdentityToken.Value
	}
	switch t := value.(type) {
	case nil, *ua.AnonymousIdentityToken:
		if q.UserIdentityToken != nil && t == nil && q.UserIdentityToken.EncodingMask != ua.ExtensionObjectEmpty {
			return nil, ua.StatusBadIdentityTokenInvalid // of another kind
		}
		if !s.setup.Anonymous {
			return nil, ua.StatusBadIdentityTokenRejected
		}
		return &Opening{}, nil
	case *ua.UserNameIdentityToken:
		password, err := s.password(t, nonce)
		if err != nil {
			return nil, err
		}
		return &Opening{Username: t.UserName, HasUsername: true, Password: password}, nil
	case *ua.X509IdentityToken:
		if s.key == nil || len(s.setup.TrustedUsers) == 0 {
			return nil, ua.StatusBadIdentityTokenInvalid
		}
		cert, _, err := s.users.verify(t.CertificateData, time.Now())
		if err != nil {
			return nil, ua.StatusBadIdentityTokenRejected
		}
		algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURIBasic256Sha256, s.key, cert.PublicKey.(*rsa.PublicKey))
		if err != nil || algo.VerifySignature(joined(s.certificate, nonce), q.UserTokenSignature.Signature) != nil {
			return nil, ua.StatusBadUserSignatureInvalid
		}
		return &Opening{Certificate: cert.Raw}, nil
	}
	return nil, ua.StatusBadIdentityTokenInvalid
}

// password decrypts a password. [OPC 10000-4, 7.40.2.2]
func (s *server) password(t *ua.UserNameIdentityToken, nonce []byte) ([]byte, error) {
	if t.EncryptionAlgorithm == "" {
		if !s.setup.PlainPassword {
			return nil, ua.StatusBadIdentityTokenInvalid
		}
		return t.Password, nil
	}
	if s.key == nil || len(t.Password) > passwordMax {
		return nil, ua.StatusBadIdentityTokenInvalid
	}
	algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURIBasic256Sha256, s.key, &s.key.PublicKey)
	if err != nil || t.EncryptionAlgorithm != algo.EncryptionURI() {
		return nil, ua.StatusBadIdentityTokenInvalid
	}
	plain, err := algo.Decrypt(t.Password)
	if err != nil || len(plain) < 4 {
		return nil, ua.StatusBadIdentityTokenInvalid
	}
	n := binary.LittleEndian.Uint32(plain)
	plain = plain[4:]
	if int64(n) != int64(len(plain)) || len(plain) < len(nonce) {
		return nil, ua.StatusBadIdentityTokenInvalid
	}
	secret, its := plain[:len(plain)-len(nonce)], plain[len(plain)-len(nonce):]
	if subtle.ConstantTimeCompare(its, nonce) != 1 { // it was meant for another session
		return nil, ua.StatusBadIdentityTokenInvalid
	}
	return secret, nil
}

// sessionOf returns the session of a request, which an activated one by this channel has to be.
func (s *server) sessionOf(c *channel, h *ua.RequestHeader) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := s.mu.sessions[h.AuthenticationToken.String()]
	switch {
	case ss == nil:
		return nil, ua.StatusBadSessionIDInvalid
	case ss.channel != c:
		return nil, ua.StatusBadSecureChannelIDInvalid
	case !ss.activated: // the standard has it closed
		s.endLocked(ss)
		return nil, ua.StatusBadSessionNotActivated
	}
	ss.seen = time.Now()
	return ss, nil
}

func (s *server) closeSession(ss *session, q *ua.CloseSessionRequest) (ua.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Subscriptions can't go to another session, so they end too.
	s.endLocked(ss)
	return &ua.CloseSessionResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}, nil
}

// endLocked ends a session with all it has.
func (s *server) endLocked(ss *session) {
	if ss.over {
		return
	}
	ss.over = true
	delete(s.mu.sessions, ss.token.String())
	for _, p := range ss.publishes {
		ss.channel.trySend(response{request: p.request, body: faultOf(p.header, ua.StatusBadSessionClosed)})
	}
	for _, sub := range ss.subscriptions {
		s.removeLocked(sub)
	}
	if ss.activated {
		s.leaveLocked(ss)
		s.discard(ss.handle)
	}
}

// status returns what a refusal is to a client; by is that of missing rights.
func (r Refusal) status(by ua.StatusCode) ua.StatusCode {
	switch r {
	case refusalNone:
		return ua.StatusOK
	case refusalCredentials, refusalNotAuthorized:
		return by
	case refusalEnded:
		return ua.StatusBadSessionClosed
	case refusalRate:
		return ua.StatusBadTooManyOperations
	case refusalTooLarge:
		return ua.StatusBadEncodingLimitsExceeded
	case refusalInvalid:
		return ua.StatusBadOutOfRange
	}
	return ua.StatusBadResourceUnavailable
}
