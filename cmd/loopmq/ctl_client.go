package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"loopmq/config"
)

// apiTimeout is how long a request may take; the broker gives up before that.
const apiTimeout = 40 * time.Second

// responseBytesMax bounds an answer: a page of a thousand elements, or a payload.
const responseBytesMax = 512 << 20

// target is where the API is, and who asks.
type target struct {
	url, token, tokenFile, ca, cert, key string
}

// apiClient asks the API.
type apiClient struct {
	base  string // without a slash at its end
	where string // for errors
	token string
	http  http.Client
}

// connect reads what the target needs. Nothing is asked yet.
func (t target) connect(stdin io.Reader) (*apiClient, error) {
	if (t.cert == "") != (t.key == "") {
		return nil, usagef("--cert and --key, or their variables: allowed: both or neither")
	}
	a := &apiClient{base: strings.TrimSuffix(t.url, "/"), token: t.token, http: http.Client{Timeout: apiTimeout}}
	if a.base == "" {
		a.base = "http://127.0.0.1:8081"
	}
	a.where = a.base
	// A proxy in the environment isn't meant for this.
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	u, err := url.Parse(a.base)
	switch {
	case err != nil:
		return nil, usagef("--url %q: allowed: http://HOST:PORT, https://HOST:PORT or unix:PATH", t.url)
	case u.Scheme == "unix":
		path := strings.TrimPrefix(strings.TrimPrefix(a.base, "unix:"), "//")
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		a.base = "http://localhost"
	case u.Scheme == "https" && u.Host != "":
		c, err := tlsClient(&config.ClientTLS{CA: t.ca, Certificate: t.cert, Key: t.key})
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = c
	case u.Scheme != "http" || u.Host == "":
		return nil, usagef("--url %q: allowed: http://HOST:PORT, https://HOST:PORT or unix:PATH", t.url)
	}
	if t.tokenFile != "" {
		if a.token, err = readToken(t.tokenFile, stdin); err != nil {
			return nil, err
		}
	}
	a.http.Transport = transport
	// What is asked for is at this server; a redirect would take the token elsewhere.
	a.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return a, nil
}

// readToken returns the first line of a file.
func readToken(path string, stdin io.Reader) (string, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, 64<<10))
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line), err
}

func (a *apiClient) close() { a.http.CloseIdleConnections() }

// statusError is an answer that says no.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

// ask sends a request, with a body as JSON unless that is nil, and decodes the answer
// into result unless that is nil.
func (a *apiClient) ask(ctx context.Context, method, path string, body, result any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+"/api/v1"+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(r)
	if err != nil {
		return a.unreachable(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, responseBytesMax))
	switch {
	case err != nil:
		return a.unreachable(err)
	case resp.StatusCode >= 300:
		return a.refused(resp, text)
	case result == nil:
		return nil
	}
	if err := json.Unmarshal(text, result); err != nil {
		return fmt.Errorf("%s: the answer is not what a broker answers: %w", a.where, err)
	}
	return nil
}

// unreachable says what to do about an error of the connection.
func (a *apiClient) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var e *url.Error
	if errors.As(err, &e) { // Leaves out the method and the URL.
		err = e.Err
	}
	hint := "is a broker running there? --url or LOOPMQ_CTL_URL says where its admin listener is"
	var unknown *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		hint = "--ca FILE says whose certificates to believe"
	case errors.As(err, &record):
		hint = "it doesn't speak TLS: use http://"
	case errors.Is(err, io.EOF) && !strings.HasPrefix(a.where, "https"):
		hint = "it may speak TLS: use https://"
	case errors.Is(err, os.ErrPermission):
		hint = "run it as a user who may open the socket"
	case errors.Is(err, os.ErrDeadlineExceeded):
		hint = "the broker didn't answer in time"
	}
	return fmt.Errorf("%s: %w: %s", a.where, err, hint)
}

// refused returns what an answer other than success says.
func (a *apiClient) refused(resp *http.Response, text []byte) error {
	var problem struct{ Detail string }
	_ = json.Unmarshal(text, &problem) // Without it the status says enough.
	detail := problem.Detail
	if detail == "" {
		detail = resp.Status
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized && a.token == "":
		detail += " (--token-file or LOOPMQ_CTL_TOKEN_FILE; --cert and --key)"
	case resp.StatusCode == http.StatusTooManyRequests:
		detail += " (in " + resp.Header.Get("Retry-After") + " s)"
	case resp.StatusCode == http.StatusBadRequest && problem.Detail == "":
		detail += ": it may speak TLS: use https://"
	}
	return &statusError{resp.StatusCode, detail}
}

// pages calls f for each page of a list, until there are no more.
func (a *apiClient) pages(ctx context.Context, path string, query url.Values, f func(items []json.RawMessage) error) error {
	query = cloneValues(query)
	query.Set("limit", strconv.Itoa(pageSize))
	for {
		var page struct {
			Items []json.RawMessage
			Next  string
		}
		if err := a.ask(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		if err := f(page.Items); err != nil || page.Next == "" {
			return err
		}
		query.Set("cursor", page.Next)
	}
}

// pageSize is how many elements are asked for at a time.
const pageSize = 500

func cloneValues(v url.Values) url.Values {
	clone := url.Values{}
	for name, values := range v {
		clone[name] = append([]string(nil), values...)
	}
	return clone
}
