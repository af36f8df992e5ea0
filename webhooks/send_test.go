package webhooks

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"loopmq/metrics"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	e := &Endpoint{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd12::/16")}}
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "10.1.2.3": true, "fd12::1": true, "::ffff:10.1.2.3": true,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false, "10.2.0.1": false, "192.168.1.1": false, "172.31.255.255": false,
		"172.32.0.1": true, "169.254.169.254": false, "fd00:ec2::254": false, "100.100.100.200": false, "fe80::1": false, "fe80::1%eth0": false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "::ffff:169.254.169.254": false, "::ffff:127.0.0.1": false,
		"64:ff9b::a9fe:a9fe": false, "64:ff9b::808:808": true, "2002:7f00:1::": false, "2002:808:808::1": true, "::127.0.0.1": false,
		"64:ff9b:1::1": false, "192.0.0.192": false, "168.63.129.16": false, "fec0::1": false, "2001::1": false,
		"::ffff:0:127.0.0.1": false,
	} {
		if got := e.allows(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	if open := (&Endpoint{AllowPrivate: true}); !open.allows(netip.MustParseAddr("169.254.169.254")) {
		t.Error("AllowPrivate doesn't allow all")
	}
}

// A name that resolves to an address that isn't public is refused as the address itself.
func TestAddressOfAName(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, nil)
	port := rc.Listener.Addr().String()[len("127.0.0.1"):]
	var endpoints []*Endpoint
	for i, host := range []string{"localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"} {
		e := endpointAt(fmt.Sprint("a", i), "http://"+host+port)
		e.Allow, e.MaxAge = nil, 2*time.Second
		endpoints = append(endpoints, e)
	}
	b := mustDeliver(t, endpoints...)
	for _, e := range endpoints {
		b.publish(e, "t", 1)
	}
	for _, e := range endpoints {
		name, host := e.Name, e.URL
		b.settled(e, 0, 1)
		letters, err := b.hooks.Letters(t.Context(), name, "", 10)
		if err != nil || len(letters) != 1 || letters[0].Status != 0 {
			t.Fatalf("%s: letters %+v, %v", host, letters, err)
		}
		if b.hooks.metrics[name].Requests[metrics.WebhookAddress].Get() == 0 {
			t.Errorf("%s: the refusal isn't counted", host)
		}
	}
	if n := rc.requests.Load(); n != 0 {
		t.Errorf("%d requests came", n)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "0": 0, "-3": 0, "soon": 0, "1.5": 0, "99999999999999999999": 0, "9999999999": maxRetryAfter,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "Fri, 02 Jan 2027 03:04:00 GMT": maxRetryAfter,
		"Friday, 02-Jan-26 03:04:15 GMT": 10 * time.Second,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for status, want := range map[int][2]verdict{ // one event, several
		200: {delivered, delivered}, 204: {delivered, delivered}, 299: {delivered, delivered},
		301: {refused, refused}, 307: {refused, refused}, 304: {refused, refused},
		400: {refused, tooMuch}, 401: {refused, refused}, 404: {refused, refused}, 413: {refused, tooMuch}, 422: {refused, tooMuch},
		408: {tryAgain, tryAgain}, 425: {tryAgain, tryAgain}, 429: {tryAgain, tryAgain}, 410: {gone, gone},
		500: {tryAgain, tryAgain}, 501: {tryAgain, tryAgain}, 503: {tryAgain, tryAgain}, 599: {tryAgain, tryAgain}, 999: {tryAgain, tryAgain},
	} {
		for i, n := range []int{1, 2} {
			if got := judge(Response{Status: status}, n); got.verdict != want[i] || (got.err == nil) != (got.verdict == delivered) {
				t.Errorf("%d for %d events: %v, %v, want %v", status, n, got.verdict, got.err, want[i])
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	x := &term{deliverer: &deliverer{endpoint: &Endpoint{RetryMin: time.Second, RetryMax: time.Minute}}}
	for attempts, most := range map[int]time.Duration{
		1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 30: time.Minute, 40: time.Minute, 1 << 30: time.Minute,
	} {
		var longest time.Duration
		for range 1000 {
			longest = max(longest, x.backoff(attempts))
		}
		if longest > most || longest < most*9/10 {
			t.Errorf("after %d attempts up to %v, want %v", attempts, longest, most)
		}
	}
}

// TestControl: what isn't an address is refused.
func TestControl(t *testing.T) {
	t.Parallel()
	if err := (&Endpoint{AllowPrivate: true}).control(context.Background(), "tcp", "nowhere", nil); err == nil {
		t.Error("it is allowed")
	}
}

// Whatever a receiver writes there, an endpoint waits for a bounded time.
func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"", "0", "120", "-1", "9999999999999999999999", "Fri, 02 Jan 2026 03:04:35 GMT", "Friday, 02-Jan-26 03:04:15 GMT", "Fri Jan  2 03:04:05 2026"} {
		f.Add(text)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if d := retryAfter(text, now); d < 0 || d > maxRetryAfter {
			t.Errorf("%q: %v", text, d)
		}
	})
}
