//go:build !invariants

package invariants

// Enabled says whether this build checks invariants.
const Enabled = false

// Mangle overwrites b, so that whoever kept a slice of it reads garbage and a test fails. Here it does nothing.
func Mangle([]byte) {}
