//go:build invariants

package invariants

// Enabled says whether this build checks invariants.
const Enabled = true

// Mangle overwrites b, so that whoever kept a slice of it reads garbage and a test fails.
func Mangle(b []byte) {
	for i := range b {
		b[i] = 0xCC
	}
}
