package peers

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Each client gets 1 MiB from each other, with the limits as they are shipped.
func TestLargePayload(t *testing.T) {
	addr := start(t)
	receivers := connectAll(t, addr, func(int) options {
		return options{subscribe: []subscription{{filter: "large/#", qos: 2}}}
	})
	payload := letters(t, 1<<20)
	for i, p := range peers {
		t.Run("from "+p.name, func(t *testing.T) {
			sender := p.connect(t, addr, options{})
			for qos := range byte(3) {
				m := message{topic: fmt.Sprintf("large/%d/%d", i, qos), payload: payload, qos: qos}
				sender.publish(m)
				for _, r := range receivers {
					expect(t, r, m)
				}
			}
		})
	}
}

// letters returns n random letters, the same for each n.
func letters(t *testing.T, n int) []byte {
	t.Helper()
	seed := uint64(n)
	t.Logf("payload of %d bytes from seed %d", n, seed)
	r := rand.New(rand.NewPCG(seed, seed))
	b := make([]byte, 0, n+10)
	for len(b) < n {
		x := r.Uint64()
		for range 10 {
			b = append(b, 'a'+byte(x%26))
			x /= 26
		}
	}
	return b[:n]
}
