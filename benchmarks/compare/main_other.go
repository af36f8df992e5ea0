//go:build !linux

package main

import (
	"fmt"
	"os"
)

// main says why there is nothing to run here: the generator needs epoll, and the broker's CPU clock is read the Linux way.
func main() {
	fmt.Fprintln(os.Stderr, "compare: needs Linux")
	os.Exit(2)
}
