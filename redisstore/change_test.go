package redisstore

import (
	"reflect"
	"testing"

	"loopmq/codec"
	"loopmq/store"
)

func TestChangeIsReadAsItWasWritten(t *testing.T) {
	session := store.SessionID{ClientID: "cé{1}", Incarnation: 1_700_000_000_000_001}
	for _, c := range []store.Change{
		{Kind: store.ChangeSubscribed, Session: session, Instance: "i", Subscriptions: []store.Subscription{
			{TopicFilter: "a/#"},
			{TopicFilter: "$share/g/+", SubscriptionIdentifier: 268_435_455, Options: codec.SubscriptionOptions{
				QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 2,
			}},
		}},
		{Kind: store.ChangeUnsubscribed, Session: session, TopicFilters: []string{"a/#", ""}},
		{Kind: store.ChangeOwner, Session: session, Instance: "i", Epoch: 1_700_000_000_000_002},
		{Kind: store.ChangeEnded, Session: session},
		{Kind: store.ChangeRouted, Instance: "i", TopicFilters: []string{"a", "b"}},
		{Kind: store.ChangeDead, Instance: "i"},
		{Kind: store.ChangeNotRetained, TopicFilters: []string{"t"}},
	} {
		record := string(encodeChange(&c))
		got, err := decodeChange(record)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%+v came back as %+v, %v", c, got, err)
		}
		for n := range record {
			// A part is an error, unless it ends with a filter.
			got, err := decodeChange(record[:n])
			if err == nil && len(got.TopicFilters)+len(got.Subscriptions) >= len(c.TopicFilters)+len(c.Subscriptions) &&
				len(c.TopicFilters)+len(c.Subscriptions) > 0 {
				t.Errorf("%d of %d bytes of %+v passed as %+v", n, len(record), c, got)
			}
		}
	}
}

func TestStreamID(t *testing.T) {
	n := store.Number{Generation: 1_700_000_000, Seq: 18_446_744_073_709_551_615}
	if got, err := parseStreamID(streamID(n)); got != n || err != nil {
		t.Errorf("%q came back as %v, %v", streamID(n), got, err)
	}
	for _, bad := range []string{"", "1", "-", "a-1", "1-a"} {
		if _, err := parseStreamID(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}
