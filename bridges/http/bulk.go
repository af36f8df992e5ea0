package httpbridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// publishBulk is POST /publish/bulk: several messages, as an array or one a line. All are
// checked before any is published.
func (b *Bridge) publishBulk(c *call) error {
	results, status, err := b.bulk(c)
	if err != nil {
		return err
	}
	text := []byte(`{"results":[`)
	for i := range results {
		if i > 0 {
			text = append(text, ',')
		}
		text = results[i].append(text)
	}
	write(c.w, status, "application/json", append(text, "]}\n"...))
	return nil
}

// bulk publishes the messages of a request, and returns what became of each.
func (b *Bridge) bulk(c *call) (results []published, status int, err error) {
	types := []string{"application/json", "application/x-ndjson", "application/jsonl"}
	if c.route.emqx {
		types = types[:1]
	}
	body, done, err := b.readBody(c, types...)
	defer done()
	if err != nil {
		return nil, 0, err
	}
	var items [][]byte
	if isOfType(c.r.Header.Get("Content-Type"), types[:1]) {
		items, err = arrayItems(body, b.opts.BulkMessages)
	} else {
		items, err = lineItems(body, b.opts.BulkMessages)
	}
	if err != nil {
		return nil, 0, err
	}
	messages := make([]loopmq.Message, len(items))
	var faults []itemFault
	for i, item := range items {
		if err := decodeMessage(item, &messages[i]); err != nil {
			faults = append(faults, itemFaultOf(i, err))
		}
	}
	if len(faults) > 0 {
		return nil, 0, itemsFault(faults)
	}
	if results, err = b.publishAll(c, messages); err != nil {
		return nil, 0, err
	}
	status = http.StatusOK
	for i := range results {
		switch p := &results[i]; {
		case p.Status == statusError:
			status = http.StatusServiceUnavailable
		case p.Matched == 0 && status == http.StatusOK:
			status = http.StatusAccepted
		}
	}
	return results, status, nil
}

// statusError is published.Status of one of several messages that wasn't stored.
const statusError = "error"

func (b *Bridge) publishAll(c *call, messages []loopmq.Message) ([]published, error) {
	results := make([]published, len(messages))
	key, err := keyOf(c.r)
	if err != nil {
		return nil, err
	}
	if key != "" {
		notes, err := b.publishOnce(c, key, messages)
		if err != nil {
			return nil, bulkFault(err)
		}
		for i := range notes {
			results[i] = publishedAs(notes[i].id, loopmq.Published{Matched: notes[i].matched})
		}
		return results, nil
	}
	outcomes, err := c.caller.PublishAll(c.ctx, messages)
	if err != nil {
		return nil, bulkFault(err)
	}
	for i := range outcomes {
		if o := &outcomes[i]; o.Err != nil {
			f := faultOf(o.Err)
			results[i] = published{Status: statusError, ID: newID(), ReasonCode: int(f.code), Message: f.detail}
		} else {
			results[i] = publishedAs(newID(), o.Published)
		}
	}
	return results, nil
}

func itemFaultOf(i int, err error) itemFault {
	f := faultOf(err)
	return itemFault{i, f.status, f.detail, int(f.code)}
}

// bulkFault names the messages because of which none was published, if err says so.
func bulkFault(err error) error {
	var none *loopmq.NonePublishedError
	if !errors.As(err, &none) {
		return err
	}
	var faults []itemFault
	for i, err := range none.Errors {
		if err != nil {
			faults = append(faults, itemFaultOf(i, err))
		}
	}
	return itemsFault(faults)
}

// itemFaultsMax is how many messages the answer to a bad request names.
const itemFaultsMax = 100

// itemsFault is the answer where some messages can't be published: with the status that
// all of these have, or else 400.
func itemsFault(faults []itemFault) error {
	f := &fault{status: faults[0].Status, reason: metrics.HTTPBadRequest, detail: "nothing was published: some of the messages can't be", code: codec.ReasonCode(faults[0].ReasonCode)}
	for i := range faults {
		if faults[i].Status != f.status {
			f.status = http.StatusBadRequest
		}
	}
	switch f.status {
	case http.StatusForbidden:
		f.reason = metrics.HTTPNotAuthorized
	case http.StatusRequestEntityTooLarge:
		f.reason = metrics.HTTPTooLarge
	case http.StatusServiceUnavailable:
		f.reason, f.retryAfter = metrics.HTTPUnavailable, busyRetry
	}
	f.items = faults[:min(len(faults), itemFaultsMax)]
	return f
}

func tooManyMessages(limit int) error {
	return faulty(http.StatusRequestEntityTooLarge, metrics.HTTPTooLarge, "there are more than %d messages, which http.bulk_messages allows", limit)
}

// arrayItems returns the elements of a JSON array.
func arrayItems(text []byte, limit int) (items [][]byte, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, badRequest("the body is not a JSON array")
	}
	for d.More() {
		if len(items) >= limit {
			return nil, tooManyMessages(limit)
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return nil, badRequest("message %d is not JSON: %v", len(items), err)
		}
		items = append(items, item)
	}
	if _, err := d.Token(); err != nil {
		return nil, badRequest("the body is not a JSON array: %v", err)
	}
	if d.InputOffset() < int64(len(bytes.TrimRight(text, jsonSpace))) {
		return nil, badRequest("there is something behind the array")
	}
	if len(items) == 0 {
		return nil, badRequest("there are no messages")
	}
	return items, nil
}

const jsonSpace = " \t\r\n"

// lineItems returns the lines of a text that aren't empty.
func lineItems(text []byte, limit int) (items [][]byte, err error) {
	for line := range bytes.Lines(text) {
		if line = bytes.Trim(line, jsonSpace); len(line) == 0 {
			continue
		}
		if len(items) >= limit {
			return nil, tooManyMessages(limit)
		}
		items = append(items, line)
	}
	if len(items) == 0 {
		return nil, badRequest("there are no messages")
	}
	return items, nil
}
