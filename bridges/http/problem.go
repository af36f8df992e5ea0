package httpbridge

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// problem is the JSON of an error. (RFC 9457)
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// writeProblem answers with an error.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	// Marshal can't fail on strings and a number.
	body, _ := json.Marshal(problem{http.StatusText(status), status, detail})
	write(w, status, "application/problem+json", append(body, '\n'))
}

// writeJSON answers with a value as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeProblem(w, http.StatusInternalServerError, "the answer can't be written as JSON")
		return
	}
	write(w, status, "application/json", append(body, '\n'))
}

func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	// If the client has gone there is nobody left to tell.
	_, _ = w.Write(body)
}
