package session

import "time"

// NeverExpires is the Session Expiry Interval of a session that does not expire
// [MQTT-3.1.2-23].
const NeverExpires = 0xFFFFFFFF

// ExpiryDue returns when a session that went offline at now expires; the zero
// time if it never does.
func ExpiryDue(now time.Time, sessionExpiryInterval uint32) time.Time {
	if sessionExpiryInterval == NeverExpires {
		return time.Time{}
	}
	return now.Add(time.Duration(sessionExpiryInterval) * time.Second)
}

// WillDue returns when the Will of a session that went offline at now is
// published: after the Will Delay Interval, or when the session ends if that
// is earlier [MQTT-3.1.3-9].
func WillDue(now time.Time, willDelayInterval, sessionExpiryInterval uint32) time.Time {
	return now.Add(time.Duration(min(willDelayInterval, sessionExpiryInterval)) * time.Second)
}

// KeepAliveLimit is how long a client with this Keep Alive (in seconds) may be
// silent before it is disconnected: one and a half times the Keep Alive
// [MQTT-3.1.2-22]. Zero: for ever.
func KeepAliveLimit(keepAlive uint16) time.Duration {
	return time.Duration(keepAlive) * 1500 * time.Millisecond
}

// RemainingExpiry returns the Message Expiry Interval to send for a message that
// expires at expiry: what is left of it, in seconds, rounded up [MQTT-3.3.2-6].
// false: it has expired.
func RemainingExpiry(now, expiry time.Time) (seconds uint32, ok bool) {
	left := expiry.Sub(now)
	if left <= 0 {
		return 0, false
	}
	return uint32((left + time.Second - 1) / time.Second), true
}
