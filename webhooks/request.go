package webhooks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"
)

// Request returns the signed request that delivers records; at is the time of the attempt. With the same records it has
// the same webhook-id, by which receivers know what they have had already. ErrRecord: one of them can't be read.
func (e *Endpoint) Request(ctx context.Context, records [][]byte, at time.Time) (*http.Request, error) {
	all := make([]record, len(records))
	size := 0
	for i, b := range records {
		if err := all[i].decode(b); err != nil {
			return nil, err
		}
		size += 512 + 2*len(b)
	}
	if len(all) == 0 {
		return nil, ErrRecord
	}
	header := http.Header{"User-Agent": {"loopmq"}}
	body := e.body(header, all, size)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range e.Headers {
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = values[0]
			continue
		}
		header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header = header
	sign(header, e.Secrets, requestID(all), at, body)
	return req, nil
}

// body returns the body of a request, whose headers go into h.
func (e *Endpoint) body(h http.Header, all []record, size int) []byte {
	batch := e.Batch.Count > 1 || len(all) > 1
	switch {
	case e.Format == EMQX:
		h.Set("Content-Type", mediaJSON)
	case batch:
		h.Set("Content-Type", mediaEvents)
	case e.Mode == Binary:
		return e.binary(h, &all[0])
	default:
		h.Set("Content-Type", mediaEvent)
	}
	b := make([]byte, 0, size)
	if !batch {
		return e.appendOne(b, &all[0])
	}
	b = append(b, '[')
	for i := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.appendOne(b, &all[i])
	}
	return append(b, ']')
}

func (e *Endpoint) appendOne(b []byte, r *record) []byte {
	if e.Format == EMQX {
		return e.appendEMQX(b, r)
	}
	return e.appendEvent(b, r)
}

// requestID is that of the event, or of a batch what its events make: a batch that is split has other ones.
func requestID(all []record) string {
	if len(all) == 1 {
		return hex.EncodeToString(all[0].id[:])
	}
	h := sha256.New()
	for i := range all {
		h.Write(all[i].id[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
