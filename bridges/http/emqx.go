package httpbridge

import "net/http"

// writeEMQXFault answers with an error in the form of EMQX's API.
func writeEMQXFault(w http.ResponseWriter, f *fault) {
	type answer struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	code := "BAD_REQUEST"
	switch f.status {
	case http.StatusUnauthorized:
		code = "BAD_API_KEY_OR_SECRET"
	case http.StatusServiceUnavailable:
		code = "SERVICE_UNAVAILABLE"
	}
	writeJSON(w, f.status, answer{code, f.detail})
}
