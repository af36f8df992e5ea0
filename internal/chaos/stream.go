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
	// AcknowledgeAt is where every so many events are acknowledged while the stream goes on,
	// which may be another node than the stream's; nil: they are by coming back.
	AcknowledgeAt func() string
	// OnSubscribed is called once the first stream has begun; nil: nobody is.
	OnSubscribed func()

	subscribed bool
	last       string
	received   int
}

const (
	// streamPause is how long a Stream waits before it comes back.
	streamPause = 20 * time.Millisecond
	// acknowledgeEach is after how many events a Stream acknowledges them.
	acknowledgeEach = 50
	// requestTimeout bounds requests other than streams.
	requestTimeout = 10 * time.Second
)

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
				if s.received++; s.AcknowledgeAt != nil && s.received%acknowledgeEach == 0 {
					// It may be refused, if the stream is over: then coming back acknowledges.
					_, _ = s.ask(ctx, http.MethodPost, s.AcknowledgeAt(), url.Values{"last_event_id": {id}})
				}
			}
			id, data = "", ""
		}
	}
	return lines.Err()
}

// End ends the session, with what is unacknowledged. Run has to be over.
func (s *Stream) End(ctx context.Context) error {
	status, err := s.ask(ctx, http.MethodDelete, s.URL(), url.Values{})
	if err == nil && status != http.StatusNoContent {
		err = fmt.Errorf("DELETE /subscribe: %d", status)
	}
	return err
}

// ask sends a request about the session.
func (s *Stream) ask(ctx context.Context, method, at string, q url.Values) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	q.Set("session", s.Session)
	r, err := http.NewRequestWithContext(ctx, method, at+"/subscribe?"+q.Encode(), nil)
	if err != nil {
		return 0, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
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
