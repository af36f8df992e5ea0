package loopmq

// DropDecisions forgets the decisions of Authorizers that were kept, for instance
// because their rules have changed: from when it returns each is asked for again.
// What was decided before, subscriptions above all, stays.
func (b *Broker) DropDecisions() { b.rules.Add(1) }
