package agents

import "loopmq/loadtest"

// together is one Second for those of several agents. Rates add up, and connections. Percentiles don't: the median is the mean of theirs,
// weighted by what they count, and of the others it is the worst. The result, made of histograms, is exact.
func together(agents [][]loadtest.Second) loadtest.Second {
	var all loadtest.Second
	for i, seconds := range agents {
		one := average(seconds)
		all.PublishAckP50 = weighted(all.PublishAckP50, all.Acknowledged, one.PublishAckP50, one.Acknowledged)
		all.DeliverP50 = weighted(all.DeliverP50, all.Delivered, one.DeliverP50, one.Delivered)
		all.PublishAckP99 = max(all.PublishAckP99, one.PublishAckP99)
		all.DeliverP99 = max(all.DeliverP99, one.DeliverP99)
		all.ConnectP99 = max(all.ConnectP99, one.ConnectP99)
		all.Sent += one.Sent
		all.Acknowledged += one.Acknowledged
		all.Delivered += one.Delivered
		all.Connects += one.Connects
		all.Errors += one.Errors
		all.Connections += one.Connections
		all.GeneratorCPU += one.GeneratorCPU
		if i == 0 || one.Seconds > all.Seconds {
			all.Seconds, all.Phase = one.Seconds, one.Phase
		}
	}
	return all
}

// average is one Second for those of one agent since the last progress: mostly one, sometimes two.
func average(seconds []loadtest.Second) loadtest.Second {
	last := seconds[len(seconds)-1]
	if len(seconds) == 1 {
		return last
	}
	all := loadtest.Second{At: last.At, Phase: last.Phase, Connections: last.Connections}
	for _, s := range seconds {
		all.Seconds += s.Seconds
	}
	for _, s := range seconds {
		share := s.Seconds / max(all.Seconds, 1e-9)
		all.PublishAckP50 = weighted(all.PublishAckP50, all.Acknowledged, s.PublishAckP50, s.Acknowledged*share)
		all.DeliverP50 = weighted(all.DeliverP50, all.Delivered, s.DeliverP50, s.Delivered*share)
		all.PublishAckP99 = max(all.PublishAckP99, s.PublishAckP99)
		all.DeliverP99 = max(all.DeliverP99, s.DeliverP99)
		all.ConnectP99 = max(all.ConnectP99, s.ConnectP99)
		all.Sent += s.Sent * share
		all.Acknowledged += s.Acknowledged * share
		all.Delivered += s.Delivered * share
		all.Connects += s.Connects * share
		all.Errors += s.Errors * share
		all.GeneratorCPU += s.GeneratorCPU * share
	}
	return all
}

// weighted is the mean of a and b, of which there are m and n.
func weighted(a, m, b, n float64) float64 {
	if m+n == 0 {
		return max(a, b)
	}
	return (a*m + b*n) / (m + n)
}
