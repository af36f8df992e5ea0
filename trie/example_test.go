package trie_test

import (
	"fmt"

	"loopmq/trie"
)

func Example() {
	t := trie.New[string]() // a broker has *session.Session here
	t.Subscribe("home/+/temperature", "thermostat", trie.Options{QoS: 1})
	t.Subscribe("home/kitchen/temperature", "display", trie.Options{})
	t.Subscribe("office/#", "logger", trie.Options{})

	var m trie.Matches[string] // kept for the next topic
	t.Match([]byte("home/kitchen/temperature"), &m)
	for _, match := range m.Subscribers {
		fmt.Println(match.Subscriber, match.Options.QoS)
	}
	fmt.Println("filters:", m.Filters)
	// Unordered output:
	// thermostat 1
	// display 0
	// filters: 2
}

func ExampleGroup_Select() {
	t := trie.New[string]()
	for _, worker := range []string{"w1", "w2", "w3"} {
		t.Subscribe("$share/workers/jobs/+", worker, trie.Options{QoS: 1})
	}
	var m trie.Matches[string]
	connected := func(worker string) bool { return worker != "w2" }
	for range 4 {
		t.Match([]byte("jobs/print"), &m)
		for _, group := range m.Groups {
			match, _ := group.Select(trie.RoundRobin, 0, connected)
			fmt.Println(group.ShareName(), "->", match.Subscriber)
		}
	}
	// Output:
	// workers -> w1
	// workers -> w3
	// workers -> w1
	// workers -> w3
}

func ExampleIndex() {
	x := trie.NewIndex[string]()
	x.Set("home/kitchen/temperature", "21")
	x.Set("home/bath/temperature", "24")
	x.Set("home/bath/humidity", "60")
	x.Match("home/+/temperature", func(topicName, payload string) bool {
		fmt.Println(topicName, payload)
		return true
	})
	x.Delete("home/bath/humidity")
	fmt.Println(x.Len())
	// Unordered output:
	// home/kitchen/temperature 21
	// home/bath/temperature 24
	// 2
}
