package bench

import (
	"math"
	"slices"
)

// gain is by how much more a level must get done to count as better than all below it: less is within what the same load
// gives from one time to the next.
const gain = 0.05

// rung is one level of a ramp that has been measured.
type rung struct {
	Load float64 // what was offered: clients, or sessions per second
	Rate float64 // what got done: sessions committed per second
}

// nextLoad says which load to try next to find the greatest throughput, and whether there is one. From start the load
// doubles for as long as that gets more done. When it does not (twice in a row in a closed loop, where a plateau is reached
// gently; once in an open one, where more than the network can do only piles up), the loads half way (geometrically)
// between the best and its neighbours are tried. No load is above most. whole asks for whole numbers, as clients are.
func nextLoad(done []rung, start, most float64, whole bool) (float64, bool) {
	if len(done) == 0 {
		return min(start, most), true
	}
	flat := 1
	if whole {
		flat = 2
	}
	best, since, highest := 0.0, 0, 0.0
	for _, r := range done {
		if r.Load <= highest {
			since = flat // the climb is over, this one was half way
			break
		}
		highest = r.Load
		if r.Rate > best*(1+gain) {
			best, since = r.Rate, 0
		} else {
			since++
		}
	}
	if since < flat && highest < most {
		return min(highest*2, most), true
	}
	return between(done, whole)
}

// between is a load half way between the best one of the climb and a neighbour of it that nothing was tried beside yet.
func between(done []rung, whole bool) (float64, bool) {
	climb := done[:1]
	for _, r := range done[1:] {
		if r.Load <= climb[len(climb)-1].Load {
			break
		}
		climb = append(climb, r)
	}
	b := 0
	for i, r := range climb {
		if r.Rate > climb[b].Rate {
			b = i
		}
	}
	for _, i := range []int{b + 1, b - 1} {
		if i < 0 || i >= len(climb) {
			continue
		}
		load := math.Sqrt(climb[i].Load * climb[b].Load)
		if whole {
			load = math.Round(load)
		}
		if !slices.ContainsFunc(done, func(r rung) bool { return math.Abs(r.Load-load) < 1e-9 }) {
			return load, true
		}
	}
	return 0, false
}
