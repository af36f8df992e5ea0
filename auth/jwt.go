package auth

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// jwtMethod is the Authentication Method by which a 5.0 client can present a token,
// and later a new one, in Authentication Data.
const jwtMethod = "JWT"

// tokenBytesMax bounds a token: what MQTT allows for a password.
const tokenBytesMax = 65535

var (
	errOtherIssuer = errors.New("another issuer's token")
	errNoKeys      = errors.New("there are no keys yet to verify a token with")
)

// JWTOptions say which tokens are valid, and what their claims mean.
type JWTOptions struct {
	// KeyFiles hold keys to verify with: public keys and certificates as PEM, or a
	// JWK Set as JSON.
	KeyFiles []string
	// SecretFiles hold a shared secret each, for HS256, HS384 and HS512: at least 32
	// bytes. A line feed at its end is not part of it.
	SecretFiles []string
	// JWKSURL is where a JWK Set is fetched from, at the start, each RefreshInterval,
	// and when a token names a key that isn't known. Keys from before stay while that
	// fails. Secrets (kty oct) in it are not used.
	JWKSURL string
	// RefreshInterval is 5 minutes by default, and 100 ms at least.
	RefreshInterval time.Duration
	// Timeout bounds a fetch; default 5 s.
	Timeout time.Duration
	// TLS is for the fetch; nil: the system's CAs.
	TLS *tls.Config
	// AllowPlainHTTP allows a JWKSURL with http off loopback: whoever is on the way
	// can let in anybody then.
	AllowPlainHTTP bool
	// Algorithms is a subset of those that fit the keys, by names such as "RS256".
	// Empty: all that fit. The algorithm "none" never does.
	Algorithms []string

	// TokenInUsername takes the token from the user name. Default: the password.
	// With the Authentication Method "JWT" it is the Authentication Data.
	TokenInUsername bool
	// Issuer is what the claim iss has to be. A token with another one is left to the
	// next Method. Empty: any.
	Issuer string
	// Audience are values of which the claim aud has to have one. Empty: any.
	Audience []string
	// UsernameClaim is the claim with the user name; default "sub".
	UsernameClaim string
	// ClientIDClaim is the claim that has to be the Client Identifier. Empty: none.
	ClientIDClaim string
	// ACLClaim is the claim that says what the client may do, see [Grant]. Empty, or
	// not in the token: it is left to the next Rule.
	ACLClaim string
	// AllowNoExpiry accepts tokens without the claim exp, which never end.
	AllowNoExpiry bool
	// Leeway allows for other clocks in exp and nbf. Default: none.
	Leeway time.Duration

	// Logger gets why tokens are refused, without them; nil means slog.Default().
	Logger *slog.Logger
	// Metrics counts; nil: nothing.
	Metrics *metrics.Set
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// JWT is a Method: clients present a signed JSON Web Token (RFC 7519). A client whose
// token ends is disconnected; one of 5.0 can present the next by re-authentication.
//
// A password that isn't of a token's form is left to the next Method. A token that is
// not valid is rejected.
type JWT struct {
	o      JWTOptions
	keys   *jwtKeys
	parser *jwt.Parser
}

var _ Method = (*JWT)(nil)

// NewJWT reads the files, and fetches the JWK Set. If the URL can't be reached that is
// logged and tried again: meanwhile tokens can't be judged, and clients are told to
// come back. Call Close when it is no longer needed.
func NewJWT(o JWTOptions) (*JWT, error) {
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.UsernameClaim = cmp.Or(o.UsernameClaim, "sub")
	o.RefreshInterval = cmp.Or(o.RefreshInterval, 5*time.Minute)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	algorithms := o.Algorithms
	if len(algorithms) == 0 {
		algorithms = slices.Collect(allAlgorithms())
	}
	for _, a := range algorithms {
		if !slices.Contains(slices.Collect(allAlgorithms()), a) {
			return nil, fmt.Errorf("jwt: algorithm %q is not known; allowed: %s", a, strings.Join(slices.Collect(allAlgorithms()), ", "))
		}
	}
	switch {
	case len(o.KeyFiles)+len(o.SecretFiles) == 0 && o.JWKSURL == "":
		return nil, errors.New("jwt: no keys; a key file, a secret file or the URL of a JWK Set is required")
	case o.RefreshInterval < 100*time.Millisecond:
		return nil, fmt.Errorf("jwt: refresh interval is %s; allowed: 100ms or more", o.RefreshInterval)
	case o.Timeout < 0 || o.Leeway < 0:
		return nil, errors.New("jwt: timeout and leeway can't be negative")
	}
	keys, err := newJWTKeys(&o)
	if err != nil {
		return nil, err
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithTimeFunc(o.Now), jwt.WithLeeway(o.Leeway), jwt.WithStrictDecoding(),
	}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if len(o.Audience) > 0 {
		options = append(options, jwt.WithAudience(o.Audience...))
	}
	if !o.AllowNoExpiry {
		options = append(options, jwt.WithExpirationRequired())
	}
	return &JWT{o: o, keys: keys, parser: jwt.NewParser(options...)}, nil
}

// Name returns "jwt".
func (j *JWT) Name() string { return metrics.AuthJWT.String() }

// Prepare reads the files again, and returns what makes their keys the current ones, so
// that several files can be changed together or not at all.
func (j *JWT) Prepare() (apply func(), err error) { return j.keys.prepare(&j.o) }

// Close stops fetching the JWK Set.
func (j *JWT) Close() { j.keys.close() }

// Authenticate judges the token in a CONNECT, or in an AUTH packet.
func (j *JWT) Authenticate(ctx context.Context, r *loopmq.ConnectRequest) (Result, error) {
	token, ok := j.token(r)
	if !ok {
		return Result{}, nil
	}
	claims := jwt.MapClaims{}
	_, err := j.parser.ParseWithClaims(token, claims, j.keys.forToken(ctx, j.o.Issuer))
	switch {
	case err == nil:
	case errors.Is(err, errNoKeys):
		return Result{}, errNoKeys
	case (errors.Is(err, jwt.ErrTokenMalformed) || errors.Is(err, errOtherIssuer)) && r.AuthenticationMethod == "":
		return Result{}, nil
	default:
		return j.reject(r, err, codec.BadUserNameOrPassword)
	}
	id, err := j.identity(claims, r)
	if err != nil {
		return j.reject(r, err, codec.NotAuthorized)
	}
	return Result{Decision: Accept, Identity: id}, nil
}

// token returns what the client presents as a token.
func (j *JWT) token(r *loopmq.ConnectRequest) (string, bool) {
	switch {
	case r.AuthenticationMethod == jwtMethod:
		return string(r.AuthenticationData), true
	case r.AuthenticationMethod != "":
		return "", false
	case j.o.TokenInUsername:
		return r.Username, r.HasUsername && len(r.Username) <= tokenBytesMax
	}
	return string(r.Password), len(r.Password) > 0
}

func (j *JWT) reject(r *loopmq.ConnectRequest, why error, code codec.ReasonCode) (Result, error) {
	j.o.Logger.Info("jwt_rejected", "client_id", r.ClientID, "remote_addr", r.RemoteAddr, "err", why)
	return Result{Decision: Reject, ReasonCode: code}, nil
}

// identity is what the claims of a valid token make of a client.
func (j *JWT) identity(claims jwt.MapClaims, r *loopmq.ConnectRequest) (loopmq.Identity, error) {
	var id loopmq.Identity
	username, ok := claims[j.o.UsernameClaim].(string)
	if !ok || !validName(username) {
		return id, fmt.Errorf("claim %q is not a user name", j.o.UsernameClaim)
	}
	id.Username = username
	if c := j.o.ClientIDClaim; c != "" {
		if want, ok := claims[c].(string); !ok || want != r.ClientID {
			return id, fmt.Errorf("claim %q is not the Client Identifier", c)
		}
	}
	exp, err := claims.GetExpirationTime()
	if err != nil {
		return id, err
	}
	if exp != nil {
		id.ExpiresAt = exp.Add(j.o.Leeway)
	}
	if acl, ok := claims[j.o.ACLClaim]; ok && j.o.ACLClaim != "" {
		g, err := newGrant(acl, r.ClientID, username)
		if err != nil {
			return id, fmt.Errorf("claim %q: %w", j.o.ACLClaim, err)
		}
		id.ACL = g
	}
	return id, nil
}

// validName reports whether a name could have come in a CONNECT: UTF-8 without
// U+0000, and short enough [MQTT-1.5.4-1, MQTT-1.5.4-2].
func validName(s string) bool {
	return s != "" && len(s) <= 65535 && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}
