//go:build linux

package loadtest

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// exchange sends a request and returns the head of the answer.
func exchange(t *testing.T, addr, request string) []byte {
	conn, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		t.Error(err)
		return make([]byte, 10)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Error(err)
	}
	var answer []byte
	for b := make([]byte, 4096); !bytes.Contains(answer, []byte("\r\n\r\n")); {
		n, err := conn.Read(b)
		if answer = append(answer, b[:n]...); err != nil {
			t.Error(err)
			return append(answer, make([]byte, 10)...)
		}
	}
	return answer
}
