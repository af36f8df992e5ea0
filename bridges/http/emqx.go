package httpbridge

import (
	"encoding/json"
	"net/http"

	"loopmq/codec"
)

// EMQX 5 has its API below /api/v5. What its clients of /publish and /publish/bulk send
// is what ours take; the answers differ.

// emqxResult is what became of a message.
type emqxResult struct {
	ID         string `json:"id,omitempty"`
	ReasonCode int    `json:"reason_code,omitempty"`
	Message    string `json:"message,omitempty"`
}

func emqxResultOf(p *published) emqxResult {
	switch {
	case p.Status == statusError:
		return emqxResult{ReasonCode: p.ReasonCode, Message: p.Message}
	case p.Matched == 0:
		return emqxResult{ReasonCode: int(codec.NoMatchingSubscribers), Message: noSubscribers}
	}
	return emqxResult{ID: p.ID}
}

// emqxPublish is POST /api/v5/publish.
func (b *Bridge) emqxPublish(c *call) error {
	p, err := b.publishBody(c)
	if err != nil {
		return err
	}
	writeJSON(c.w, p.status(), emqxResultOf(&p))
	return nil
}

// emqxPublishBulk is POST /api/v5/publish/bulk.
func (b *Bridge) emqxPublishBulk(c *call) error {
	results, status, err := b.bulk(c)
	if err != nil {
		return err
	}
	answers := make([]emqxResult, len(results))
	for i := range results {
		answers[i] = emqxResultOf(&results[i])
	}
	writeJSON(c.w, status, answers)
	return nil
}

// emqxCodes are the words of EMQX for a status.
var emqxCodes = map[int]string{
	http.StatusUnauthorized:          "BAD_API_KEY_OR_SECRET",
	http.StatusForbidden:             "API_KEY_NOT_ALLOW",
	http.StatusNotFound:              "NOT_FOUND",
	http.StatusMethodNotAllowed:      "METHOD_NOT_ALLOWED",
	http.StatusUnsupportedMediaType:  "UNSUPPORTED_MEDIA_TYPE",
	http.StatusTooManyRequests:       "RATE_LIMIT",
	http.StatusInternalServerError:   "INTERNAL_ERROR",
	http.StatusServiceUnavailable:    "SERVICE_UNAVAILABLE",
	http.StatusRequestEntityTooLarge: "BAD_REQUEST",
}

// writeEMQXFault answers with an error in the form of EMQX's API.
func writeEMQXFault(w http.ResponseWriter, f *fault) {
	type answer struct {
		Code       string      `json:"code"`
		Message    string      `json:"message"`
		ReasonCode int         `json:"reason_code,omitempty"`
		Errors     []itemFault `json:"errors,omitempty"`
	}
	a := answer{emqxCodes[f.status], f.detail, int(f.code), f.items}
	if a.Code == "" {
		a.Code = "BAD_REQUEST"
	}
	body, _ := json.Marshal(a) // Marshal can't fail on strings and numbers.
	write(w, f.status, "application/json", append(body, '\n'))
}
