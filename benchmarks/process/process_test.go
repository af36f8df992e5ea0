//go:build linux

package process_test

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loopmq/benchmarks/process"
)

func TestCPUClockAgreesWithGetrusage(t *testing.T) {
	self := process.Process(os.Getpid())
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	for used() < time.Second/2 { // many ticks of a coarse clock
	}
	low := used()
	got, err := self.CPU()
	if err != nil {
		t.Fatal(err)
	}
	high := used()
	if tick := 100 * time.Millisecond; got < low-tick || got > high+tick {
		t.Errorf("got %v, want between %v and %v", got, low, high)
	}
	if _, err := process.Process(1 << 22).CPU(); err == nil {
		t.Error("a process that doesn't exist: got no error")
	}
}

func TestResidentBytesGrowWithWhatIsTouched(t *testing.T) {
	self := process.Process(os.Getpid())
	before, err := self.ResidentBytes()
	if err != nil {
		t.Fatal(err)
	}
	const size = 32 << 20
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	after, err := self.ResidentBytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(b); err != nil {
		t.Fatal(err)
	}
	if grown := after - before; grown < size*9/10 || grown > size*2 {
		t.Errorf("got %d bytes more, want about %d", grown, size)
	}
	if _, err := process.Process(1 << 22).ResidentBytes(); err == nil {
		t.Error("a process that doesn't exist: got no error")
	}
}
