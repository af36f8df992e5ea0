package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// Bounds on keys, wherever they come from.
const (
	keysMax        = 1000
	keyBytesMax    = 1 << 20 // of what the URL answers
	rsaBitsMin     = 2048    // RFC 7518, 3.3
	rsaBitsMax     = 16384   // beyond it a verification costs too much
	secretBytesMin = 32      // RFC 7518, 3.2

	// unknownKeyInterval is how often tokens with unknown keys can cause a fetch.
	unknownKeyInterval = 10 * time.Second
)

// algorithmsOf is which algorithms a key is good for. A key fits those of its own
// type only: else a public key could be taken for the secret of an HS256.
func algorithmsOf(key any) []string {
	switch k := key.(type) {
	case []byte:
		return []string{"HS256", "HS384", "HS512"}
	case *rsa.PublicKey:
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case ed25519.PublicKey:
		return []string{"EdDSA"}
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}
		case 384:
			return []string{"ES384"}
		case 521:
			return []string{"ES512"}
		}
	}
	return nil
}

// allAlgorithms are those that some key fits.
func allAlgorithms() iter.Seq[string] {
	return slices.Values([]string{
		"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
	})
}

// usable says what is wrong with a key.
func usable(key any) error {
	switch k := key.(type) {
	case []byte:
		if len(k) < secretBytesMin {
			return fmt.Errorf("a secret of %d bytes is too short; allowed: %d or more", len(k), secretBytesMin)
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < rsaBitsMin || n > rsaBitsMax {
			return fmt.Errorf("an RSA key of %d bits; allowed: %d to %d", n, rsaBitsMin, rsaBitsMax)
		}
	}
	if algorithmsOf(key) == nil {
		return fmt.Errorf("a key of type %T; allowed: RSA, ECDSA on P-256, P-384 or P-521, Ed25519", key)
	}
	return nil
}

// jwtKeys are the keys of files and of a URL.
type jwtKeys struct {
	files   jwkset.Storage
	keyfunc keyfunc.Keyfunc
	cancel  context.CancelFunc
}

func newJWTKeys(o *JWTOptions) (*jwtKeys, error) {
	ctx, cancel := context.WithCancel(context.Background())
	k := &jwtKeys{files: jwkset.NewMemoryStorage(), cancel: cancel}
	apply, err := k.prepare(o)
	if err != nil {
		cancel()
		return nil, err
	}
	apply()
	storage := k.files
	if o.JWKSURL != "" {
		if storage, err = k.remote(ctx, o); err != nil {
			cancel()
			return nil, fmt.Errorf("jwt: %w", err)
		}
	}
	k.keyfunc, err = keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: storage})
	return k, err
}

func (k *jwtKeys) close() { k.cancel() }

// forToken returns the function that finds the keys for a token.
func (k *jwtKeys) forToken(ctx context.Context, issuer string) jwt.Keyfunc {
	return func(t *jwt.Token) (any, error) {
		if iss, err := t.Claims.GetIssuer(); issuer != "" && (err != nil || iss != issuer) {
			return nil, errOtherIssuer
		}
		if _, ok := t.Header["crit"]; ok { // It names what has to be understood (RFC 7515, 4.1.11).
			return nil, errors.New("the header has extensions that are not known")
		}
		found, err := k.keyfunc.KeyfuncCtx(ctx)(t)
		set, ok := found.(jwt.VerificationKeySet)
		switch {
		case err != nil:
			// A key of a file may have no name, whatever the issuer calls it.
			if set = k.nameless(ctx); len(set.Keys) == 0 {
				return nil, k.orNoKeys(ctx, err)
			}
		case !ok:
			set.Keys = []jwt.VerificationKey{found}
		case len(set.Keys) == 0:
			return nil, errNoKeys
		}
		set.Keys = slices.DeleteFunc(set.Keys, func(key jwt.VerificationKey) bool {
			return !slices.Contains(algorithmsOf(key), t.Method.Alg())
		})
		return set, nil
	}
}

// nameless returns the keys of files that have no Key ID.
func (k *jwtKeys) nameless(ctx context.Context) (set jwt.VerificationKeySet) {
	keys, _ := k.files.KeyReadAll(ctx) // Memory has no errors.
	for _, key := range keys {
		if key.Marshal().KID == "" {
			set.Keys = append(set.Keys, publicKey(key.Key()))
		}
	}
	return set
}

// orNoKeys returns err, or that there are no keys at all.
func (k *jwtKeys) orNoKeys(ctx context.Context, err error) error {
	if all, e := k.keyfunc.Storage().KeyReadAll(ctx); e == nil && len(all) == 0 {
		return errNoKeys
	}
	return err
}

// remote returns a storage with the keys of the URL and of the files.
func (k *jwtKeys) remote(ctx context.Context, o *JWTOptions) (jwkset.Storage, error) {
	if err := checkURL(o.JWKSURL, o.AllowPlainHTTP); err != nil {
		return nil, fmt.Errorf("JWK Set: %w", err)
	}
	client := &http.Client{
		Transport: limitedTransport{newTransport(o.TLS, 2)},
		Timeout:   o.Timeout,
	}
	s, err := jwkset.NewStorageFromHTTP(o.JWKSURL, jwkset.HTTPClientStorageOptions{
		Client:                    client,
		Ctx:                       ctx,
		HTTPTimeout:               o.Timeout,
		NoErrorReturnFirstHTTPReq: true,
		RefreshInterval:           o.RefreshInterval,
		Storage:                   remoteKeys{jwkset.NewMemoryStorage()},
		RefreshErrorHandler: func(_ context.Context, err error) {
			if ctx.Err() != nil {
				return
			}
			o.Logger.Warn("jwks_refresh_failed", "url", redactURL(o.JWKSURL), "err", withoutURL(err))
			if o.Metrics != nil {
				o.Metrics.Auth.KeyRefreshFailures.Inc()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return jwkset.NewHTTPClient(jwkset.HTTPClientOptions{
		Given:             k.files,
		HTTPURLs:          map[string]jwkset.Storage{o.JWKSURL: s},
		RateLimitWaitMax:  o.Timeout,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(max(unknownKeyInterval, 2*o.Timeout)), 1),
	})
}

// remoteKeys keeps what a URL answered.
type remoteKeys struct{ jwkset.Storage }

// KeyReplaceAll takes the usable keys of an answer. An answer without any is taken for
// a fault: the keys from before stay.
func (r remoteKeys) KeyReplaceAll(ctx context.Context, keys []jwkset.JWK) error {
	if len(keys) > keysMax {
		return fmt.Errorf("the JWK Set has %d keys; allowed: %d", len(keys), keysMax)
	}
	keys = slices.DeleteFunc(keys, func(k jwkset.JWK) bool {
		_, secret := k.Key().([]byte)
		return secret || k.Marshal().USE == jwkset.UseEnc || usable(publicKey(k.Key())) != nil
	})
	if len(keys) == 0 {
		return errors.New("the JWK Set has no key that a token can be verified with")
	}
	return r.Storage.KeyReplaceAll(ctx, keys)
}

// limitedTransport bounds the body of an answer.
type limitedTransport struct{ http.RoundTripper }

// RoundTrip calls the service.
func (t limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, keyBytesMax), resp.Body}
	return resp, nil
}

// prepare reads the files, and returns what replaces the keys by theirs.
func (k *jwtKeys) prepare(o *JWTOptions) (apply func(), err error) {
	var all []jwkset.JWK
	var errs []error
	add := func(file string, parse func([]byte) ([]jwkset.JWK, error)) {
		text, err := readFile(file)
		if err != nil {
			errs = append(errs, err)
			return
		}
		keys, err := parse(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file, err))
		}
		all = append(all, keys...)
	}
	for _, file := range o.KeyFiles {
		add(file, parseKeys)
	}
	for _, file := range o.SecretFiles {
		add(file, parseSecret)
	}
	if len(all) > keysMax {
		errs = append(errs, fmt.Errorf("jwt: there are %d keys; allowed: %d", len(all), keysMax))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return func() { _ = k.files.KeyReplaceAll(context.Background(), all) }, nil // Memory has no errors.
}

// parseKeys reads PEM or a JWK Set.
func parseKeys(text []byte) ([]jwkset.JWK, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		return parseJWKSet(text)
	}
	var keys []jwkset.JWK
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		key, err := parsePEM(block)
		if err == nil {
			err = usable(key)
		}
		if err != nil {
			return nil, err
		}
		k, err := newJWK(key)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key; allowed: PEM with PUBLIC KEY or CERTIFICATE, or a JWK Set")
	}
	return keys, nil
}

func parsePEM(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block %q; allowed: PUBLIC KEY, RSA PUBLIC KEY, CERTIFICATE", block.Type)
}

func parseJWKSet(text []byte) ([]jwkset.JWK, error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not a JWK Set: %w", err)
	}
	var keys []jwkset.JWK
	for i, m := range set.Keys {
		k, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
		if err == nil && k.Marshal().USE != jwkset.UseEnc {
			if err = usable(publicKey(k.Key())); err == nil {
				keys = append(keys, k)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the JWK Set has no key that a token can be verified with")
	}
	return keys, nil
}

// parseSecret reads a secret, whose last line feed isn't part of it.
func parseSecret(text []byte) ([]jwkset.JWK, error) {
	secret := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if err := usable(secret); err != nil {
		return nil, err
	}
	k, err := newJWK(secret)
	return []jwkset.JWK{k}, err
}

func newJWK(key any) (jwkset.JWK, error) {
	return jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Marshal: jwkset.JWKMarshalOptions{Private: true}})
}

// publicKey is what of a key verifies: a JWK Set may have private keys.
func publicKey(key any) any {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return &k.PublicKey
	case *ecdsa.PrivateKey:
		return &k.PublicKey
	case ed25519.PrivateKey:
		return k.Public()
	}
	return key
}
