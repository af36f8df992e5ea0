// A function that loopmq calls: it verifies the signature of a request, and answers the message that is in it. It needs
// nothing but the standard library.
//
//	LOOPMQ_SECRET=whsec_… go run ./serverless -address 127.0.0.1:9090
//
// A device asks with {"celsius": 21.5}, and gets {"fahrenheit": 70.7}. function.mjs does the same for Node.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	bodyMax   = 1 << 20
	tolerance = 5 * time.Minute // between the clocks of loopmq and of this function
)

func main() {
	address := flag.String("address", "127.0.0.1:9090", "where to listen")
	flag.Parse()
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("LOOPMQ_SECRET"), "whsec_"))
	if err != nil || len(secret) == 0 {
		fmt.Fprintln(os.Stderr, "LOOPMQ_SECRET has no secret, such as whsec_…")
		os.Exit(2)
	}
	l, err := net.Listen("tcp", *address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("listening on %s\n", l.Addr())
	server := http.Server{Handler: function(secret), ReadTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, server.Serve(l))
	os.Exit(1)
}

// function is the function. A request that comes a second time has the same webhook-id: who must not do a thing twice
// remembers them.
func function(secret []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMax))
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		if err := verify(secret, r.Header, body); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		var event struct {
			Type          string
			ResponseTopic string
			Data          struct{ Celsius *float64 }
		}
		if err := json.Unmarshal(body, &event); err != nil {
			http.Error(w, "the event can't be read", http.StatusBadRequest)
			return
		}
		switch {
		case event.Type != "io.loopmq.message.published" || event.ResponseTopic == "":
			w.WriteHeader(http.StatusNoContent) // nobody waits for an answer
		case event.Data.Celsius == nil:
			http.Error(w, "celsius is missing", http.StatusUnprocessableEntity)
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"fahrenheit":%.1f}`, *event.Data.Celsius*9/5+32)
		}
	})
}

// verify checks the signature of a request, as Standard Webhooks has it: https://www.standardwebhooks.com
func verify(secret []byte, h http.Header, body []byte) error {
	seconds, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age > tolerance || age < -tolerance {
		return errors.New("the request is too old, or too new")
	}
	m := hmac.New(sha256.New, secret)
	fmt.Fprintf(m, "%s.%d.%s", h.Get("webhook-id"), seconds, body)
	want := "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
	for signature := range strings.FieldsSeq(h.Get("webhook-signature")) { // one for each secret
		if hmac.Equal([]byte(signature), []byte(want)) {
			return nil
		}
	}
	return errors.New("the signature is wrong")
}
