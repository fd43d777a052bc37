package bench

import (
	"fmt"
	"sync"
)

// A shelf gives each session the package that it works on, by the supplier's reference, which the service admits once.
// Without sharing every session gets a package of its own. With sharing a session draws a place on the shelf, and hot
// places are drawn by several sessions at a time: they then handle the same package, as two operators in one warehouse
// may, and only the first to commit can have it. After a commit the place holds the next package, so that the contention
// goes on for as long as the run does.
type shelf struct {
	name   string // of the run; references of two runs never meet
	shared bool

	mu     sync.Mutex
	single int   // guarded by mu: packages given out without sharing
	places []int // guarded by mu: which package, counted from 0, lies at each place
}

// newShelf makes a shelf of so many shared places; none: nothing is shared.
func newShelf(name string, places int) *shelf {
	return &shelf{name: name, shared: places > 0, places: make([]int, places)}
}

// parcel is what one session works on.
type parcel struct {
	Reference  string
	place, gen int // of a shared one; place is -1 otherwise
}

// take gives a session the package at a place; without sharing the place does not matter.
func (s *shelf) take(place int) parcel {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shared {
		s.single++
		return parcel{Reference: fmt.Sprintf("%s-%d", s.name, s.single), place: -1}
	}
	gen := s.places[place]
	return parcel{Reference: fmt.Sprintf("%s-%d.%d", s.name, place, gen), place: place, gen: gen}
}

// gone says that a block holds a package: its place has the next one from now on. Saying so twice changes nothing more.
func (s *shelf) gone(p parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.place >= 0 && s.places[p.place] == p.gen {
		s.places[p.place]++
	}
}
