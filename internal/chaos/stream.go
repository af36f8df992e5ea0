package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Stream receives by server-sent events, of a session with a name, and comes back as
// an EventSource does: with the id of the last event that it has.
type Stream struct {
	// URL is where to connect, asked for each time.
	URL         func() string
	Session     string
	TopicFilter string
	Ledger      *Ledger
	// OnSubscribed is called once the first stream has begun; nil: nobody is.
	OnSubscribed func()

	subscribed bool
	last       string
}

// streamPause is how long a Stream waits before it comes back.
const streamPause = 20 * time.Millisecond

// Run receives until ctx ends.
func (s *Stream) Run(ctx context.Context) {
	for ctx.Err() == nil {
		_ = s.receive(ctx) // it ends for whatever a broker that is killed may do
		select {
		case <-time.After(streamPause):
		case <-ctx.Done():
		}
	}
}

// receive is one stream.
func (s *Stream) receive(ctx context.Context) error {
	q := url.Values{"session": {s.Session}, "filter": {s.TopicFilter}, "qos": {"1"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/subscribe?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	if s.last != "" {
		r.Header.Set("Last-Event-ID", s.last)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /subscribe: %s", resp.Status)
	}
	if !s.subscribed {
		s.subscribed = true
		s.Ledger.Expect(s.Session, Durable, 1)
		if s.OnSubscribed != nil {
			s.OnSubscribed()
		}
	}
	lines := bufio.NewScanner(resp.Body)
	var id, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "data":
			data = value
		case "":
			if id != "" { // else it is a comment, or retry
				if err := s.event(data); err != nil {
					return err
				}
				s.last = id
			}
			id, data = "", ""
		}
	}
	return lines.Err()
}

// event handles one message.
func (s *Stream) event(data string) error {
	var m struct{ Payload string }
	if err := json.Unmarshal([]byte(data), &m); err != nil {
		return err
	}
	var publisher string
	var seq int
	if _, err := fmt.Sscanf(m.Payload, "%s %d", &publisher, &seq); err != nil {
		return err
	}
	s.Ledger.Received(s.Session, publisher, seq)
	return nil
}
