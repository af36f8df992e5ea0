package session

import (
	"testing"
	"time"
)

func TestExpiryDue(t *testing.T) {
	now := time.Unix(1000, 0)
	if got := ExpiryDue(now, 30); !got.Equal(time.Unix(1030, 0)) {
		t.Errorf("got %v", got)
	}
	if got := ExpiryDue(now, NeverExpires-1); got.Sub(now) != (NeverExpires-1)*time.Second {
		t.Errorf("got %v", got)
	}
	if got := ExpiryDue(now, NeverExpires); !got.IsZero() { // [MQTT-3.1.2-23]
		t.Errorf("a session that never expires is due at %v", got)
	}
}

// A Will is due after its delay or when the session ends, whichever is first [MQTT-3.1.3-9].
func TestWillDue(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, test := range []struct{ delay, expiry, want uint32 }{
		{10, 20, 10}, {20, 10, 10}, {0, 10, 0}, {10, 0, 0}, {5, NeverExpires, 5},
	} {
		if got := WillDue(now, test.delay, test.expiry).Unix() - now.Unix(); got != int64(test.want) {
			t.Errorf("delay %d, session expiry %d: due after %d s, want %d", test.delay, test.expiry, got, test.want)
		}
	}
}

func TestKeepAliveLimit(t *testing.T) {
	for keepAlive, want := range map[uint16]time.Duration{0: 0, 1: 1500 * time.Millisecond, 60: 90 * time.Second, 65535: 98302500 * time.Millisecond} {
		if got := KeepAliveLimit(keepAlive); got != want {
			t.Errorf("Keep Alive %d: got %v, want %v", keepAlive, got, want)
		}
	}
}

func TestRemainingExpiry(t *testing.T) {
	now := time.Unix(1000, 0)
	for left, want := range map[time.Duration]uint32{
		time.Nanosecond: 1, time.Second: 1, time.Second + 1: 2, 10 * time.Second: 10, 0xFFFFFFFF * time.Second: 0xFFFFFFFF,
	} {
		if got, ok := RemainingExpiry(now, now.Add(left)); !ok || got != want {
			t.Errorf("%v left: got %d, %v, want %d", left, got, ok, want)
		}
	}
	for _, left := range []time.Duration{0, -1, -time.Hour} {
		if got, ok := RemainingExpiry(now, now.Add(left)); ok {
			t.Errorf("%v left: got %d, want that it has expired", left, got)
		}
	}
}
