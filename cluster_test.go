package loopmq_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
	"loopmq/store"
	"loopmq/store/memory"
)

// sharedStores are the stores that several brokers can share. Each makes as many views of one store as a test has brokers, and says how to
// declare the instance behind a view dead.
var sharedStores = []struct {
	name string
	open func(t *testing.T, n int) (views []store.Shared, expel func(instance string))
}{
	{"memory", func(_ *testing.T, n int) ([]store.Shared, func(string)) {
		h := memory.NewHub(memory.Options{})
		views := make([]store.Shared, n)
		for i := range views {
			views[i] = h.Open()
		}
		return views, h.Expel
	}},
	{"redis", func(t *testing.T, n int) ([]store.Shared, func(string)) {
		server := redistest.Start(t)
		return openRedis(t, n, server.URL()+"?prefix=lmq:"), expelFrom(t, server, "lmq:")
	}},
	{"redis cluster", func(t *testing.T, n int) ([]store.Shared, func(string)) {
		prefix := fmt.Sprintf("{t%d}:", redisClusterPrefixes.Add(1))
		return openRedis(t, n, redisCluster().URL()+"?prefix="+prefix), expelFrom(t, redisCluster().Master(prefix), prefix)
	}},
}

// redisCluster is one Redis Cluster for all tests: starting one takes more than two
// seconds. Each has a prefix, and so a hash slot, of its own.
var (
	redisCluster         = sync.OnceValue(func() *redistest.Cluster { return redistest.StartCluster(&allTests, "appendfsync no") })
	redisClusterPrefixes atomic.Int64
	allTests             process
)

// process is the redistest.TB of what all tests share.
type process struct{ cleanups []func() }

func (*process) Helper()                           {}
func (*process) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (p *process) Cleanup(f func())                { p.cleanups = append(p.cleanups, f) }

func (p *process) TempDir() string {
	dir, err := os.MkdirTemp("", "loopmq")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range slices.Backward(allTests.cleanups) {
		f()
	}
	os.Exit(code)
}

// openRedis opens n views of the Redis at a URL that has parameters.
func openRedis(t *testing.T, n int, url string) []store.Shared {
	t.Helper()
	views := make([]store.Shared, n)
	for i := range views {
		s, err := redisstore.NewStore(t.Context(), url+"&lease=3s", redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		views[i] = s
	}
	return views
}

// expelFrom declares instances dead in the keys with a prefix.
func expelFrom(t *testing.T, server *redistest.Server, prefix string) func(instance string) {
	return func(instance string) {
		eventually(t, "the others declare it dead", func() bool {
			// Its lease lapses, however often it renews it.
			server.Client().Do(t.Context(), "ZADD", prefix+"leases", "XX", 1, instance)
			return server.Client().Do(t.Context(), "ZSCORE", prefix+"leases", instance).Err() != nil // there is none
		})
	}
}

// nodes are brokers on one store.
type nodes struct {
	*testing.T
	servers []*brokertest.Server
	stores  []store.Shared // of the servers
	expel   func(instance string)
}

// addr is what to dial for a node.
func (n *nodes) addr(i int) string { return n.servers[i].Addr }

// onNodes runs a test with brokers on each kind of store.
func onNodes(t *testing.T, count int, test func(n *nodes), options ...func(*loopmq.Options)) {
	t.Parallel()
	for _, kind := range sharedStores {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			views, expel := kind.open(t, count)
			n := &nodes{T: t, expel: expel, stores: views}
			for _, v := range views {
				n.servers = append(n.servers, brokertest.Start(t, slices.Concat(options, []func(*loopmq.Options){func(o *loopmq.Options) { o.Store = v }})...))
			}
			test(n)
		})
	}
}

func TestClusterEverySubscriberGetsAMessageOnce(t *testing.T) {
	onNodes(t, 3, func(n *nodes) {
		type subscriber struct {
			*brokertest.Client
			qos byte
		}
		var all []subscriber
		for node := range n.servers {
			for qos := range byte(3) {
				for _, durable := range []bool{false, true} {
					id := fmt.Sprintf("%d-%d-%v", node, qos, durable)
					option := brokertest.ClientID(id)
					if durable {
						option = brokertest.Durable(id)
					}
					c := brokertest.Connect(n.T, n.addr(node), codec.V5, option)
					c.Subscribe("t/+", qos)
					c.Subscribe("t/1", qos) // overlapping: once nevertheless
					all = append(all, subscriber{c, qos})
				}
			}
		}
		for node := range n.servers {
			pub := brokertest.Connect(n.T, n.addr(node), codec.V5)
			for qos := range byte(3) {
				payload := fmt.Sprintf("%d/%d", node, qos)
				pub.Publish("t/1", payload, qos)
				for _, s := range all {
					p := s.ExpectPublish("t/1", payload)
					if want := min(qos, s.qos); p.QoS != want {
						n.Errorf("%s got %s at QoS %d, want %d", s.ClientID, payload, p.QoS, want)
					}
					s.Acknowledge(p)
				}
			}
		}
		for _, s := range all {
			s.ExpectNothingFrom(brokertest.Connect(n.T, n.addr(0), codec.V5), max(1, s.qos)) // QoS 0 needn't know of a subscription at once
		}
	})
}

func TestClusterSubackIsEnough(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		for i := range 100 {
			topic := strconv.Itoa(i)
			for _, option := range []brokertest.ConnectOption{brokertest.ClientID("plain" + topic), brokertest.Durable("durable" + topic)} {
				sub := brokertest.Connect(n.T, n.addr(1), codec.V5, option)
				sub.Subscribe(topic, 2)
				for qos := byte(1); qos <= 2; qos++ {
					pub.Publish(topic, "x", qos)
					sub.Acknowledge(sub.ExpectPublish(topic, "x"))
				}
				sub.Unsubscribe(topic)
				sub.Disconnect()
			}
		}
	})
}

func TestClusterTakeover(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		first := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("c"))
		first.Subscribe("t", 1)
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		pub.Publish("t", "1", 1)
		first.ExpectPublish("t", "1") // and doesn't acknowledge it

		second := brokertest.Dial(n.T, n.addr(1), codec.V5)
		if !second.Connect(brokertest.Durable("c")).SessionPresent {
			n.Error("Session Present: got 0")
		}
		first.ExpectDisconnect(codec.SessionTakenOver)
		first.ExpectClosed()
		p := second.ExpectPublish("t", "1")
		if !p.Dup {
			n.Error("DUP: got 0 for what was sent before")
		}
		second.Acknowledge(p)
		pub.Publish("t", "2", 1)
		second.Acknowledge(second.ExpectPublish("t", "2"))

		third := brokertest.Dial(n.T, n.addr(0), codec.V5)
		if third.Connect(brokertest.ClientID("c")).SessionPresent { // Clean Start 1
			n.Error("Session Present: got 1 for a clean start")
		}
		second.ExpectDisconnect(codec.SessionTakenOver)
		third.ExpectNothingFrom(pub, 1)
	})
}

func TestClusterOneConnectionPerClientIDWhateverRaces(t *testing.T) {
	onNodes(t, 3, func(n *nodes) {
		for round := range 20 {
			id := fmt.Sprintf("racer-%d", round)
			var wg sync.WaitGroup
			var clients [6]*brokertest.Client
			for i := range clients {
				clients[i] = brokertest.Dial(n.T, n.addr(i%3), codec.V5)
				wg.Go(func() { clients[i].SendConnect(brokertest.Durable(id)) })
			}
			wg.Wait()
			for _, c := range clients { // each is answered, with a refusal if a later one came before its turn
				if _, ok := c.Receive().(*codec.Connack); !ok {
					n.Fatal("the first packet isn't a CONNACK")
				}
			}
			connections := func() (sum int) {
				for _, s := range n.servers {
					sum += s.Broker.Health().Connections
				}
				return sum
			}
			eventually(n.T, "one connection is left", func() bool { return connections() == 1 })
			last := brokertest.Dial(n.T, n.addr(round%3), codec.V5)
			last.Connect(brokertest.Durable(id))
			last.Disconnect()
			eventually(n.T, "nobody is left", func() bool { return connections() == 0 })
		}
	})
}

func TestClusterRetained(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		for i := range 50 {
			topic := fmt.Sprintf("r/%d", i)
			pub.Publish(topic, "old", 1, brokertest.Retained)
			pub.Publish(topic, "new", 1, brokertest.Retained)
			sub := brokertest.Connect(n.T, n.addr(1), codec.V5)
			sub.Subscribe(topic, 1)
			p := sub.ExpectPublish(topic, "new")
			if !p.Retain {
				n.Error("RETAIN: got 0")
			}
			sub.Acknowledge(p)
			sub.Disconnect()
		}
		all := brokertest.Connect(n.T, n.addr(1), codec.V5)
		all.Subscribe("r/+", 0)
		for range 50 {
			if p := brokertest.Expect[*codec.Publish](all); string(p.Payload) != "new" {
				n.Errorf("%s: got %q", p.TopicName, p.Payload)
			}
		}
		clearing := brokertest.Connect(n.T, n.addr(1), codec.V5)
		clearing.Publish("r/7", "", 1, brokertest.Retained)
		all.ExpectPublish("r/7", "")
		late := brokertest.Connect(n.T, n.addr(0), codec.V5)
		late.Subscribe("r/7", 1)
		late.ExpectNothingFrom(pub, 1)
	})
}

// groupMembers subscribes members of one group at all nodes.
func groupMembers(n *nodes, durable bool) (members []*brokertest.Client) {
	for node := range n.servers {
		for i := range 2 {
			id := fmt.Sprintf("member-%d-%d", node, i)
			option := brokertest.ClientID(id)
			if durable {
				option = brokertest.Durable(id)
			}
			c := brokertest.Connect(n.T, n.addr(node), codec.V5, option)
			c.Subscribe("$share/g/t", 2)
			c.Subscribe("end", 1)
			members = append(members, c)
		}
	}
	return members
}

func TestClusterSharedSubscription(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable %v", durable), func(t *testing.T) {
			onNodes(t, 3, func(n *nodes) {
				members := groupMembers(n, durable)
				const count = 60
				for i := range count {
					pub := brokertest.Connect(n.T, n.addr(i%3), codec.V5)
					pub.Publish("t", strconv.Itoa(i), byte(1+i%2))
					pub.Disconnect()
				}
				pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
				pub.Publish("end", "", 1)
				var got []int
				for _, m := range members {
					for {
						p := brokertest.Expect[*codec.Publish](m)
						m.Acknowledge(p)
						if string(p.TopicName) == "end" {
							break
						}
						i, _ := strconv.Atoi(string(p.Payload))
						got = append(got, i)
					}
				}
				slices.Sort(got)
				for i := range count {
					if i >= len(got) || got[i] != i {
						n.Fatalf("got %v, want each of %d messages once", got, count)
					}
				}
			})
		})
	}
}

func TestClusterADeadNodesMessagesGoToOtherMembers(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		dead := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("dead"))
		dead.Subscribe("$share/g/t", 1)
		pub := brokertest.Connect(n.T, n.addr(1), codec.V5)
		for i := range 5 {
			pub.Publish("t", strconv.Itoa(i), 1)
			dead.ExpectPublish("t", strconv.Itoa(i))
		}
		alive := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("alive"))
		alive.Subscribe("$share/g/t", 1)
		n.expel(n.servers[0].Broker.Health().Node)
		var got []string
		for range 5 {
			p := brokertest.Expect[*codec.Publish](alive)
			alive.Acknowledge(p)
			got = append(got, string(p.Payload))
		}
		slices.Sort(got)
		if want := []string{"0", "1", "2", "3", "4"}; !slices.Equal(got, want) {
			n.Errorf("got %v, want %v", got, want)
		}
	})
}

// What was under way to a client at QoS 2 waits for that client; what was behind it goes to another member.
func TestClusterADeadNodesQoS2(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		window := func(p *codec.Connect) {
			p.Properties.Set(codec.PropReceiveMaximum)
			p.Properties.ReceiveMaximum = 2
		}
		dead := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("dead"), window)
		dead.Subscribe("$share/g/t", 2)
		pub := brokertest.Connect(n.T, n.addr(1), codec.V5)
		for i := range 5 {
			pub.Publish("t", strconv.Itoa(i), 2)
		}
		first := []*codec.Publish{dead.ExpectPublish("t", "0"), dead.ExpectPublish("t", "1")}
		alive := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("alive"))
		alive.Subscribe("$share/g/t", 2)
		n.expel(n.servers[0].Broker.Health().Node)
		var got []string
		for range 3 {
			p := brokertest.Expect[*codec.Publish](alive)
			alive.Acknowledge(p)
			got = append(got, string(p.Payload))
		}
		slices.Sort(got)
		if want := []string{"2", "3", "4"}; !slices.Equal(got, want) {
			n.Errorf("the other member got %v, want %v", got, want)
		}
		alive.Disconnect()
		dead = brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("dead"), window)
		for _, p := range first {
			again := brokertest.Expect[*codec.Publish](dead)
			if again.PacketID != p.PacketID || !again.Dup {
				n.Errorf("got Packet Identifier %d, DUP %v; want %d again", again.PacketID, again.Dup, p.PacketID)
			}
			dead.Acknowledge(again)
		}
	})
}

// A clean start at another node ends a session, but not what others of its group can still get.
func TestClusterCleanStartElsewhere(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		old := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("member"))
		old.Subscribe("$share/g/t", 1)
		pub := brokertest.Connect(n.T, n.addr(1), codec.V5)
		for i := range 5 {
			pub.Publish("t", strconv.Itoa(i), 1)
			old.ExpectPublish("t", strconv.Itoa(i))
		}
		other := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("other"))
		other.Subscribe("$share/g/t", 1)
		brokertest.Connect(n.T, n.addr(1), codec.V5, func(p *codec.Connect) { p.ClientID, p.CleanStart = []byte("member"), true })
		var got []string
		for range 5 {
			p := brokertest.Expect[*codec.Publish](other)
			other.Acknowledge(p)
			got = append(got, string(p.Payload))
		}
		slices.Sort(got)
		if want := []string{"0", "1", "2", "3", "4"}; !slices.Equal(got, want) {
			n.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestClusterWillOfADeadNodesClient(t *testing.T) {
	onNodes(t, 3, func(n *nodes) {
		sub := brokertest.Connect(n.T, n.addr(1), codec.V5)
		sub.Subscribe("will/#", 1)
		brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.ClientID("plain"), brokertest.Will("will/plain", "x", 1, false))
		brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("durable"), brokertest.Will("will/durable", "x", 1, false))
		n.expel(n.servers[0].Broker.Health().Node)
		var got []string
		for range 2 {
			p := brokertest.Expect[*codec.Publish](sub)
			sub.Acknowledge(p)
			got = append(got, string(p.TopicName))
		}
		slices.Sort(got)
		if want := []string{"will/durable", "will/plain"}; !slices.Equal(got, want) {
			n.Errorf("got %v, want %v", got, want)
		}
		sub.ExpectNothingFrom(brokertest.Connect(n.T, n.addr(2), codec.V5), 1)
	})
}

func TestClusterAnExpelledNodeComesBack(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		old := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("c"))
		old.Subscribe("t", 1)
		before := n.servers[0].Broker.Health().Node
		n.expel(before)
		old.ExpectDisconnect(codec.ServerShuttingDown)
		old.ExpectClosed()
		eventually(n.T, "the node is ready again", func() bool {
			return n.servers[0].Broker.Ready() == nil && n.servers[0].Broker.Health().Node != before
		})
		pub := brokertest.Connect(n.T, n.addr(1), codec.V5)
		pub.Publish("t", "meanwhile", 1)
		again := brokertest.Dial(n.T, n.addr(0), codec.V5)
		if !again.Connect(brokertest.Durable("c")).SessionPresent {
			n.Error("Session Present: got 0")
		}
		again.Acknowledge(again.ExpectPublish("t", "meanwhile"))
		pub.Publish("t", "now", 2)
		again.Acknowledge(again.ExpectPublish("t", "now"))
	})
}

// What waits for a group's members is not given up by a node that forgets them to join again.
func TestClusterAnExpelledNodeKeepsWhatWaitsForGroups(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		member := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("member"))
		member.Subscribe("$share/g/t", 1)
		member.Disconnect()
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		const count = 20
		for i := range count {
			pub.Publish("t", strconv.Itoa(i), 1)
		}
		for range 3 {
			was := n.servers[0].Broker.Health().Node
			n.expel(was)
			eventually(n.T, "it has joined again", func() bool {
				h := n.servers[0].Broker.Health()
				return h.Status == "ok" && h.Node != was
			})
		}
		member = brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("member"))
		for i := range count {
			member.Acknowledge(member.ExpectPublish("t", strconv.Itoa(i)))
		}
	})
}

// expelledAtOnce is a store whose members are declared dead before they have started.
type expelledAtOnce struct{ store.Shared }

type expelledMember struct{ store.Member }

func (s expelledAtOnce) Join(ctx context.Context, n store.Node) (store.Member, error) {
	m, err := s.Shared.Join(ctx, n)
	return expelledMember{m}, err
}

func (expelledMember) Start(context.Context) error { return store.ErrDead }

func TestClusterANodeThatCouldNotStartShutsDown(t *testing.T) {
	b, err := loopmq.New(loopmq.Options{Store: expelledAtOnce{memory.NewHub(memory.Options{}).Open()}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); !errors.Is(err, store.ErrDead) {
		t.Errorf("got %v, want ErrDead", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), brokertest.Timeout)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestClusterKickFromAnyNode(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		c := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.ClientID("c"))
		d := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("d"))
		for node := range n.servers {
			page, err := n.servers[node].Broker.Clients(n.Context(), loopmq.ClientFilter{}, "", 10)
			if err != nil || len(page.Clients) != 2 {
				n.Fatalf("clients as node %d knows them: got %+v, %v", node, page, err)
			}
			for i, want := range []loopmq.ClientStatus{
				{ClientID: "c", Node: n.servers[0].Broker.Health().Node}, {ClientID: "d", Node: n.servers[1].Broker.Health().Node, Durable: true},
			} {
				if got := page.Clients[i]; got.ClientID != want.ClientID || got.Node != want.Node || got.Durable != want.Durable || !got.Connected {
					n.Errorf("clients as node %d knows them: got %+v, want %+v", node, got, want)
				}
			}
		}
		d.Disconnect()
		if err := n.servers[1].Broker.Kick(n.Context(), "c"); err != nil {
			n.Fatal(err)
		}
		c.ExpectDisconnect(codec.AdministrativeAction)
		if err := n.servers[1].Broker.Kick(n.Context(), "nobody"); !errors.Is(err, loopmq.ErrNoClient) {
			n.Errorf("Kick of nobody: got %v", err)
		}
	})
}

// Subscriptions that come all the time must neither lose nor double a QoS 2 message, nor change the order.
func TestClusterQoS2AmongNewSubscriptions(t *testing.T) {
	onNodes(t, 2, func(n *nodes) {
		sub := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("sub"))
		sub.Subscribe("t", 2)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		churn := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("churn"))
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					churn.Subscribe(strconv.Itoa(i), 1)
					churn.Unsubscribe(strconv.Itoa(i))
				}
			}
		})
		const count = 300
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("pub"))
		wg.Go(func() {
			for i := range count {
				pub.Publish("t", strconv.Itoa(i), 2)
			}
			close(stop)
		})
		for i := range count {
			sub.Acknowledge(sub.ExpectPublish("t", strconv.Itoa(i)))
		}
		wg.Wait()
	})
}

// onSlowNodes runs a test with brokers that the test keeps from following the feed.
func onSlowNodes(t *testing.T, count int, test func(n *nodes, h *memory.Hub)) {
	t.Parallel()
	h := memory.NewHub(memory.Options{})
	n := &nodes{T: t, expel: h.Expel}
	for range count {
		n.servers = append(n.servers, brokertest.Start(t, func(o *loopmq.Options) { o.Store = h.Open() }))
	}
	t.Cleanup(h.Resume)
	test(n, h)
}

// owner waits until the store says that an instance has a session's connection, none if node is negative.
func (n *nodes) owner(h *memory.Hub, clientID string, node int) {
	n.Helper()
	want := ""
	if node >= 0 {
		want = n.servers[node].Broker.Health().Node
	}
	eventually(n.T, fmt.Sprintf("%s is held by %q", clientID, want), func() bool {
		se, err := h.Sessions().Lookup(n.Context(), clientID)
		return err == nil && se.Owner == want
	})
}

func TestClusterSlowNodeQoS2OfAPlainPublisher(t *testing.T) {
	onSlowNodes(t, 2, func(n *nodes, h *memory.Hub) {
		h.Pause()
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		sub := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("s"))
		sub.Subscribe("t", 2)
		pub.Publish("t", "x", 2)
		sub.Acknowledge(sub.ExpectPublish("t", "x"))
	})
}

func TestClusterSlowNodeMemberSubscribesByItselfToo(t *testing.T) {
	onSlowNodes(t, 2, func(n *nodes, h *memory.Hub) {
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		sub := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("s"))
		sub.Subscribe("$share/g/t", 1)
		pub.Publish("t", "1", 1)
		sub.Acknowledge(sub.ExpectPublish("t", "1"))
		h.Pause()
		sub.Subscribe("t", 1)
		pub.Publish("t", "2", 1)
		for range 2 { // once for the group, once for itself
			sub.Acknowledge(sub.ExpectPublish("t", "2"))
		}
	})
}

func TestClusterSlowNodeSubscriptionMadeAgainElsewhere(t *testing.T) {
	onSlowNodes(t, 2, func(n *nodes, h *memory.Hub) {
		a := brokertest.Connect(n.T, n.addr(0), codec.V5, brokertest.Durable("s"))
		a.Subscribe("t", 1)
		h.Resume()
		h.Pause()
		a.Unsubscribe("t")
		a.Close()
		n.owner(h, "s", -1)
		b := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("s"))
		b.Subscribe("t", 1)
		h.Resume() // the UNSUBSCRIBE comes to the second node now
		for node := range n.servers {
			pub := brokertest.Connect(n.T, n.addr(node), codec.V5)
			pub.Publish("t", "x", 1)
			b.Acknowledge(b.ExpectPublish("t", "x"))
		}
	})
}

// A message for a member whose session has ended at another node is acknowledged when another member has it.
func TestClusterSlowNodeMemberHasEnded(t *testing.T) {
	onSlowNodes(t, 2, func(n *nodes, h *memory.Hub) {
		gone := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("gone"))
		gone.Subscribe("$share/g/t", 2)
		there := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("there"))
		there.Subscribe("$share/g/t", 2)
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		for qos := range byte(3) {
			h.Resume()
			h.Pause()
			if qos == 0 {
				continue
			}
			brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.ClientID("gone")) // a clean start
			for i := range 2 {
				pub.Publish("t", strconv.Itoa(i), qos)
			}
			for i := range 2 {
				there.Acknowledge(there.ExpectPublish("t", strconv.Itoa(i)))
			}
			again := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("gone"))
			again.Subscribe("$share/g/t", 2)
		}
	})
}

func TestClusterSlowNodeMemberIsOffline(t *testing.T) {
	onSlowNodes(t, 2, func(n *nodes, h *memory.Hub) {
		gone := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("gone"))
		gone.Subscribe("$share/g/t", 2)
		there := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("there"))
		there.Subscribe("$share/g/t", 2)
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		h.Resume()
		h.Pause()
		gone.Close()
		n.owner(h, "gone", -1)
		var want, got []string
		for i := range 6 {
			want = append(want, strconv.Itoa(i))
			pub.Publish("t", want[i], byte(1+i%2))
		}
		for range want {
			p := brokertest.Expect[*codec.Publish](there)
			there.Acknowledge(p)
			got = append(got, string(p.Payload))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			n.Errorf("got %v, want %v", got, want)
		}
	})
}

// gatedStore keeps the commits of one broker back while its gate is locked.
type gatedStore struct {
	*memory.HubStore
	gate sync.RWMutex
	fail atomic.Int64 // so many commits
}

func (s *gatedStore) NewWriter(name string) store.Writer {
	return &gatedWriter{s, s.HubStore.NewWriter(name)}
}

type gatedWriter struct {
	s *gatedStore
	store.Writer
}

func (w *gatedWriter) Commit(ctx context.Context, b *store.Batch) error {
	w.s.gate.RLock()
	defer w.s.gate.RUnlock()
	if w.s.fail.Add(-1) >= 0 {
		return store.ErrUnavailable
	}
	return w.Writer.Commit(ctx, b)
}

// What waits behind a commit that is given up isn't stored before it is sent again.
func TestOrderAfterACommitThatWasGivenUp(t *testing.T) {
	t.Parallel()
	gated := &gatedStore{HubStore: memory.NewHub(memory.Options{}).Open()}
	server := brokertest.Start(t, func(o *loopmq.Options) { o.Store = gated })
	sub := brokertest.Connect(t, server.Addr, codec.V5, brokertest.Durable("s"))
	sub.Subscribe("t", 2)
	pub := brokertest.Connect(t, server.Addr, codec.V5, brokertest.Durable("p"))
	send := func(packetID uint16) {
		pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte{byte('0' + packetID)}, QoS: 2, PacketID: packetID})
	}
	gated.gate.Lock()
	for id := uint16(1); id <= 2; id++ {
		send(id)
		pub.Ping()
	}
	gated.fail.Store(1 << 30) // until it is given up
	gated.gate.Unlock()
	pub.ExpectDisconnect(codec.ServerBusy)
	gated.fail.Store(0)
	pub = brokertest.Connect(t, server.Addr, codec.V5, brokertest.Durable("p"))
	for id := uint16(1); id <= 2; id++ {
		send(id)
	}
	for _, want := range []string{"1", "2"} {
		sub.Acknowledge(sub.ExpectPublish("t", want))
	}
}

// Of messages that wait for one commit some were matched before a subscription was added, and some after.
func TestClusterSlowNodeOrderAcrossASubscription(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos <= 2; qos++ {
		h := memory.NewHub(memory.Options{})
		t.Cleanup(h.Resume)
		gated := &gatedStore{HubStore: h.Open()}
		first := brokertest.Start(t, func(o *loopmq.Options) { o.Store = gated })
		second := brokertest.Start(t, func(o *loopmq.Options) { o.Store = h.Open() })
		a := brokertest.Connect(t, second.Addr, codec.V5, brokertest.Durable("a"))
		a.Subscribe("t", qos)
		pub := brokertest.Connect(t, first.Addr, codec.V5, brokertest.Durable("p"))
		h.Resume()
		gated.gate.Lock()
		h.Pause()
		send := func(payload string) {
			pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte(payload), QoS: qos, PacketID: pub.PacketID()})
		}
		send("0") // the batch that is held up
		pub.Ping()
		b := brokertest.Connect(t, second.Addr, codec.V5, brokertest.Durable("b"))
		send("1")
		pub.Ping()
		b.Subscribe("t", qos)
		h.Resume()
		send("2")
		pub.Ping()
		gated.gate.Unlock()
		for _, c := range []*brokertest.Client{a, b} {
			for _, want := range []string{"0", "1", "2"} {
				p := brokertest.Expect[*codec.Publish](c)
				c.Acknowledge(p)
				if string(p.Payload) != want {
					t.Errorf("QoS %d: %s got %s, want %s", qos, c.ClientID, p.Payload, want)
				}
			}
		}
	}
}

// Two nodes claim a session while the first connection is being ended.
func TestClusterSlowNodeClaimsOvertakeEachOther(t *testing.T) {
	onSlowNodes(t, 3, func(n *nodes, h *memory.Hub) {
		c := brokertest.Connect(n.T, n.addr(2), codec.V5, brokertest.Durable("s"))
		c.Subscribe("$share/g/t", 1)
		h.Resume()
		for range 20 {
			h.Pause()
			a := brokertest.Dial(n.T, n.addr(0), codec.V5)
			a.SendConnect(brokertest.Durable("s"))
			b := brokertest.Dial(n.T, n.addr(1), codec.V5)
			b.SendConnect(brokertest.Durable("s"))
			for _, c := range []*brokertest.Client{a, b} {
				if _, ok := c.Receive().(*codec.Connack); !ok {
					n.Fatal("the first packet isn't a CONNACK")
				}
			}
			h.Resume()
			last := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("s"))
			h.Resume()
			for node := range n.servers {
				pub := brokertest.Connect(n.T, n.addr(node), codec.V5)
				pub.Publish("t", "x", 1)
				last.Acknowledge(last.ExpectPublish("t", "x"))
				pub.Disconnect()
			}
		}
	})
}

// What one node has put into a group's queue, and another has taken out, doesn't count for ever.
func TestClusterGroupQueueEmptiedElsewhere(t *testing.T) {
	onSlowNodes(t, 2, func(n *nodes, h *memory.Hub) {
		pub := brokertest.Connect(n.T, n.addr(0), codec.V5)
		for round := range 4 {
			member := brokertest.Connect(n.T, n.addr(1), codec.V5, brokertest.Durable("s"))
			if round == 0 {
				member.Subscribe("$share/g/t", 1)
			} else {
				for i := range 4000 { // the limit is 10,000
					member.Acknowledge(member.ExpectPublish("t", strconv.Itoa(i)))
				}
			}
			member.Close()
			n.owner(h, "s", -1)
			h.Resume()
			for i := range 4000 {
				pub.Publish("t", strconv.Itoa(i), 1)
			}
		}
	})
}
