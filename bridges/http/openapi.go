package httpbridge

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.json
var bridgeOpenAPI []byte

// serveDocument is GET /openapi.json.
func (b *Bridge) serveDocument(c *call) error {
	write(c.w, http.StatusOK, "application/json", bridgeOpenAPI)
	return nil
}
