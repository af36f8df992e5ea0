package agents

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"loopmq/loadtest"
)

const (
	// protocolVersion changes with what one side needs from the other.
	protocolVersion = 1
	// messageBytesMax bounds a message: the largest are results with the ledger of a million streams.
	messageBytesMax = 256 << 20
	// helloBytesMax bounds a message of somebody who hasn't proved anything.
	helloBytesMax = 1 << 10
	// aliveEvery is how often each side says something.
	aliveEvery = time.Second
	// silenceMax is how long a side may say nothing.
	silenceMax = 15 * time.Second
	// helloMax is how long a handshake may take.
	helloMax = 10 * time.Second
)

var (
	// ErrToken is wrapped by the error of a handshake with another token.
	ErrToken = errors.New("wrong token")
	// ErrLost is wrapped by the error of an agent or a coordinator that was heard no more.
	ErrLost = errors.New("lost")
	// ErrProtocol is wrapped by errors about what the other side has sent.
	ErrProtocol = errors.New("not the protocol of agents")
)

// A message is what one side tells the other: one of its fields, or none to be heard of.
type message struct {
	// From the coordinator.
	Scenario *loadtest.Scenario `json:"scenario,omitempty"` // with a Share: connect
	Begin    bool               `json:"begin,omitempty"`    // all are ready: publish
	Stop     bool               `json:"stop,omitempty"`     // end early, and report

	// From the agent.
	Ready  bool             `json:"ready,omitempty"` // all clients are connected
	Second *loadtest.Second `json:"second,omitempty"`
	Result json.RawMessage  `json:"result,omitempty"` // as WriteJSON writes it
	Error  string           `json:"error,omitempty"`  // instead of a result
}

// hello is a message of the handshake.
type hello struct {
	Version int    `json:"version,omitempty"`
	Nonce   []byte `json:"nonce,omitempty"`
	Proof   []byte `json:"proof,omitempty"`
	Error   string `json:"error,omitempty"`
}

// A link carries frames. One goroutine reads; any may write.
type link struct {
	r     *bufio.Reader
	close func() error

	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func newLink(r io.Reader, w io.Writer, closeLink func() error) *link {
	return &link{r: bufio.NewReader(r), w: w, close: closeLink}
}

// send sends v as one frame.
func (l *link) send(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > messageBytesMax {
		return fmt.Errorf("a message of %d bytes, more than %d", len(text), messageBytesMax)
	}
	frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text))), text...)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(frame)
	return err
}

// receive reads one frame of at most limit bytes into v.
func (l *link) receive(v any, limit uint32) error {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return fmt.Errorf("%w: a message of %d bytes, more than %d", ErrProtocol, n, limit)
	}
	// A buffer that grows: a false length takes no memory.
	var text bytes.Buffer
	if _, err := io.CopyN(&text, l.r, int64(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(text.Bytes(), v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// drain reads until the other side hangs up.
func (l *link) drain() { _, _ = io.Copy(io.Discard, l.r) }

// welcome is the agent's side of the handshake over conn.
func welcome(conn net.Conn, token string) (*link, error) {
	l := newLink(conn, conn, conn.Close)
	_ = conn.SetDeadline(time.Now().Add(helloMax))
	mine := hello{Version: protocolVersion, Nonce: nonce()}
	if err := l.send(mine); err != nil {
		return nil, err
	}
	var theirs hello
	if err := l.receive(&theirs, helloBytesMax); err != nil {
		return nil, err
	}
	if !hmac.Equal(theirs.Proof, proof(token, "coordinator", mine.Nonce, theirs.Nonce)) {
		_ = l.send(hello{Error: ErrToken.Error()})
		return nil, ErrToken
	}
	if err := l.send(hello{Proof: proof(token, "agent", mine.Nonce, theirs.Nonce)}); err != nil {
		return nil, err
	}
	return l, conn.SetDeadline(time.Time{})
}

// introduce is the coordinator's side of it.
func introduce(conn net.Conn, token string) (*link, error) {
	l := newLink(conn, conn, conn.Close)
	_ = conn.SetDeadline(time.Now().Add(helloMax))
	var theirs, answer hello
	if err := l.receive(&theirs, helloBytesMax); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	switch {
	case theirs.Error != "":
		return nil, errors.New(theirs.Error)
	case theirs.Version != protocolVersion:
		return nil, fmt.Errorf("%w: version %d, and not %d", ErrProtocol, theirs.Version, protocolVersion)
	}
	mine := nonce()
	if err := l.send(hello{Nonce: mine, Proof: proof(token, "coordinator", theirs.Nonce, mine)}); err != nil {
		return nil, err
	}
	if err := l.receive(&answer, helloBytesMax); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if !hmac.Equal(answer.Proof, proof(token, "agent", theirs.Nonce, mine)) {
		return nil, ErrToken
	}
	return l, conn.SetDeadline(time.Time{})
}

func nonce() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return b
}

// proof shows that its maker knows the token, and that it isn't the answer to another handshake or of the other side.
func proof(token, role string, agent, coordinator []byte) []byte {
	mac := hmac.New(sha256.New, []byte(token))
	for _, part := range [][]byte{[]byte(role), agent, coordinator} {
		_ = binary.Write(mac, binary.BigEndian, uint32(len(part)))
		_, _ = mac.Write(part)
	}
	return mac.Sum(nil)
}
