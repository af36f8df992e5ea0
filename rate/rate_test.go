package rate_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loopmq/rate"
)

const second = int64(time.Second)

func TestBurstThenRate(t *testing.T) {
	limit := rate.Limit{PerSecond: 10, Burst: 3}
	var b rate.Bucket
	for i := range 3 {
		if wait := b.Take(limit, 1, second); wait != 0 {
			t.Fatalf("%d of the burst: wait %v", i, wait)
		}
	}
	if b.Full(second) {
		t.Error("it is full, though the burst was taken")
	}
	for i := 1; i <= 3; i++ { // each who comes at once has a moment of its own
		if wait, want := b.Take(limit, 1, second), time.Duration(i)*100*time.Millisecond; wait != want {
			t.Errorf("%d beyond the burst: wait %v, want %v", i, wait, want)
		}
	}
	if wait := b.Wait(limit, second); wait != 400*time.Millisecond {
		t.Errorf("one more: wait %v", wait)
	}
	if wait := b.Wait(limit, second*14/10); wait != 0 {
		t.Errorf("one more, when it is there: wait %v", wait)
	}
	if at := second * 16 / 10; !b.Full(at) || b.Full(at-1) {
		t.Error("six at 10 a second are back after 600 ms")
	}
	if wait := b.Take(limit, 3, 100*second); wait != 0 {
		t.Errorf("after a rest: wait %v", wait)
	}
	if wait := b.Take(limit, 1, 100*second); wait != 100*time.Millisecond {
		t.Errorf("after a rest and the burst: wait %v: a rest is worth no more than the burst", wait)
	}
}

func TestDefaultBurstIsASecond(t *testing.T) {
	var b rate.Bucket
	if wait := b.Take(rate.Limit{PerSecond: 50}, 50, 0); wait != 0 {
		t.Errorf("wait %v", wait)
	}
	if wait := b.Take(rate.Limit{PerSecond: 50}, 1, 0); wait != 20*time.Millisecond {
		t.Errorf("wait %v", wait)
	}
}

func TestNoLimit(t *testing.T) {
	var b rate.Bucket
	for _, limit := range []rate.Limit{{}, {Burst: 1}, {PerSecond: -1}} {
		if limit.IsLimit() || b.Take(limit, 1<<40, 0) != 0 || b.Wait(limit, 0) != 0 || !b.Full(0) {
			t.Errorf("%+v limits", limit)
		}
	}
}

// What nobody could ever pay back is forgiven, and numbers don't overflow.
func TestDebtIsBounded(t *testing.T) {
	var b rate.Bucket
	limit := rate.Limit{PerSecond: 1, Burst: 1}
	for range 10 {
		if wait := b.Take(limit, 1<<31, second); wait != time.Hour {
			t.Errorf("wait %v", wait)
		}
	}
}

// However many take at the same time, no more than burst and rate come through.
func TestConcurrent(t *testing.T) {
	limit := rate.Limit{PerSecond: 1000, Burst: 100}
	var b rate.Bucket
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if b.Take(limit, 1, second) == 0 {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := taken.Load(); n != 100 {
		t.Errorf("%d came through, want the burst of 100", n)
	}
	if wait := b.Wait(limit, second); wait != 7901*time.Millisecond {
		t.Errorf("wait %v for the 8001st", wait)
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	var b rate.Bucket
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() { now++; b.Take(rate.Limit{PerSecond: 1}, 1, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTake(b *testing.B) {
	var bucket rate.Bucket
	now := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 1000
		bucket.Take(rate.Limit{PerSecond: 1_000_000}, 1, now)
	}
}
