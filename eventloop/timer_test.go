package eventloop

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestWheel_Model does random things to a wheel and to a map, and compares what fires.
func TestWheel_Model(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { testWheelModel(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

type modelTimer struct {
	Timer
	due   int64 // tick at which it has to fire; 0 means not armed
	fired int64 // tick at which it did; 0 means it didn't
}

func testWheelModel(t *testing.T, r *rand.Rand) {
	var w wheel
	w.init()
	timers := make([]modelTimer, 300)
	now := int64(r.IntN(int(Tick)))
	// delays of all sizes: within a tick, within a revolution, beyond several
	delay := func() int64 { return int64(float64(Tick) * math.Pow(10, r.Float64()*5-1)) }

	schedule := func(m *modelTimer) {
		d := delay()
		w.schedule(&m.Timer, now+d)
		m.due = max((now+d+int64(Tick)-1)/int64(Tick), w.tick+1)
	}
	for i := range timers {
		m := &timers[i]
		m.Init(TimerFunc(func(*Timer) {
			m.fired = now / int64(Tick)
			if m.Armed() {
				t.Fatal("a timer is armed while it fires")
			}
			if m.due == 0 {
				t.Fatal("a timer fired that was not armed")
			}
			if m.due > m.fired {
				t.Fatalf("a timer fired at %d, due at %d", m.fired, m.due)
			}
			m.due = 0
			other := &timers[r.IntN(len(timers))]
			switch r.IntN(6) {
			case 0:
				schedule(m)
			case 1:
				schedule(other)
			case 2:
				if got, want := other.Stop(), other.due != 0; got != want {
					t.Fatalf("Stop returned %v, want %v", got, want)
				}
				other.due = 0
			}
		}))
	}
	for range 3000 {
		m := &timers[r.IntN(len(timers))]
		switch r.IntN(5) {
		case 0, 1:
			schedule(m)
		case 2:
			if got, want := m.Stop(), m.due != 0; got != want {
				t.Fatalf("Stop returned %v, want %v", got, want)
			}
			m.due = 0
		default:
			now += delay() / 4
			w.advance(now)
			if w.tick != now/int64(Tick) {
				t.Fatalf("the wheel stands at %d, want %d", w.tick, now/int64(Tick))
			}
		}
		tick := now / int64(Tick)
		earliest := int64(math.MaxInt64)
		for i := range timers {
			m := &timers[i]
			if m.due != 0 && m.due <= w.tick {
				t.Fatalf("at tick %d a timer for %d has not fired", tick, m.due)
			}
			if m.Armed() != (m.due != 0) {
				t.Fatalf("Armed is %v, due %d", m.Armed(), m.due)
			}
			if m.due != 0 {
				earliest = min(earliest, m.due)
			}
		}
		if got := w.due.Load(); got > earliest {
			t.Fatalf("the ticker would wake the loop at %d, the next timer is due at %d", got, earliest)
		}
	}
}

// TestWheel_Silent checks that an empty wheel doesn't ask to be looked at.
func TestWheel_Silent(t *testing.T) {
	var w wheel
	w.init()
	var timer Timer
	timer.Init(TimerFunc(func(*Timer) {}))
	w.schedule(&timer, int64(time.Second))
	if got, want := w.due.Load(), int64(time.Second/Tick); got != want {
		t.Errorf("due at tick %d, want %d", got, want)
	}
	w.advance(int64(2 * time.Second))
	if got := w.due.Load(); got != math.MaxInt64 {
		t.Errorf("an empty wheel is due at %d", got)
	}
}

func TestLoop_Schedule(t *testing.T) {
	e, _ := mustStart(t, Config{Loops: 1, Handler: &handler{}})
	l := e.Loops()[0]
	type firing struct {
		name  string
		after time.Duration
	}
	fired := make(chan firing, 3)
	var long, short, stopped Timer
	begin := time.Now()
	for name, timer := range map[string]*Timer{"long": &long, "short": &short, "stopped": &stopped} {
		timer.Init(TimerFunc(func(*Timer) { fired <- firing{name, time.Since(begin)} }))
	}
	onLoop(l, func() {
		l.Schedule(&long, 3*Tick)
		l.Schedule(&short, time.Hour)
		l.Schedule(&short, -time.Second) // moves it; the past means the next tick
		l.Schedule(&stopped, 2*Tick)
		stopped.Stop()
	})
	if f := receive(t, "short timer", fired); f.name != "short" {
		t.Errorf("%s fired first", f.name)
	}
	if f := receive(t, "long timer", fired); f.name != "long" || f.after < 3*Tick {
		t.Errorf("%s fired after %v, want at least %v", f.name, f.after, 3*Tick)
	}
	if len(fired) != 0 {
		t.Error("a stopped timer fired")
	}
}

func BenchmarkTimer_Schedule(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprintf("timers=%d", n), func(b *testing.B) {
			var w wheel
			w.init()
			timers := make([]Timer, n)
			h := TimerFunc(func(*Timer) {})
			for i := range timers {
				timers[i].Init(h)
				w.schedule(&timers[i], int64(i%90)*int64(time.Second))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				w.schedule(&timers[i], int64(i%90)*int64(time.Second))
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}
