// Package distance says where the nodes of a network are, how far apart, and what that alone must cost. A Map is a table of sites
// and the links between them, read from TOML (Parse) or the same everywhere (Uniform); Place puts the nodes of a network on
// it. From the placement follow the floors: the least time that a step and a commit can take if machines took none. The
// difference between a measurement and its floor is what the program adds; `tandem bench wan` shows both, and `tandem plan`
// predicts with the floors.
//
// Everything here is pure: no clock, no network, the same answer for the same question.
package distance

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pelletier/go-toml/v2"

	"tandem/internal/bench/link"
)

// Map is where nodes may be. It is immutable.
type Map struct {
	client             string
	validators, layer2 []string
	near               link.Conditions
	links              map[[2]string]link.Conditions // from, to
	uniform            *link.Conditions              // between any two nodes, whatever their sites
}

//go:embed continents.toml
var continents string

// ContinentsTOML is the default map as a file, with every key explained.
func ContinentsTOML() string { return continents }

// Continents is the default map: four validators on four continents, the Layer 2 node near its client.
func Continents() *Map {
	m, err := Parse([]byte(continents))
	if err != nil {
		panic("distance: the embedded map: " + err.Error()) // a test reads it
	}
	return m
}

// Uniform is a map on which any two nodes have conditions apart between them, and the client has near to each node.
func Uniform(apart, near link.Conditions) (*Map, error) {
	if err := errors.Join(apart.Check(), near.Check()); err != nil {
		return nil, fmt.Errorf("distance: %w", err)
	}
	return &Map{client: "client", near: near, uniform: &apart}, nil
}

// file is the TOML form of a map.
type file struct {
	Client     string     `toml:"client"`
	Validators []string   `toml:"validators"`
	Layer2     []string   `toml:"layer2"`
	Near       conditions `toml:"near"`
	Links      []struct {
		Between []string `toml:"between"`
		conditions
		Back duration `toml:"back"`
	} `toml:"link"`
}

type conditions struct {
	Delay  duration `toml:"delay"`
	Jitter duration `toml:"jitter"`
	Loss   float64  `toml:"loss"`
	RTO    duration `toml:"rto"`
	Mbit   float64  `toml:"mbit"`
}

// duration is a time written as in Go: "46ms".
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration such as \"46ms\"", text)
	}
	*d = duration(v)
	return nil
}

func (c conditions) link(delay duration) (link.Conditions, error) {
	if !(c.Mbit >= 0 && c.Mbit <= 1e6) { // not a number is refused too
		return link.Conditions{}, fmt.Errorf("mbit %v: from 0 (unlimited) to 1000000", c.Mbit)
	}
	out := link.Conditions{Delay: time.Duration(delay), Jitter: time.Duration(c.Jitter), Loss: c.Loss, RTO: time.Duration(c.RTO), Bandwidth: int64(math.Ceil(c.Mbit * 125_000))}
	return out, out.Check()
}

// maxSites bounds the sites that a map may name.
const maxSites = 64

// Parse reads a map. Keys that it does not know are an error, and so is a pair of sites with nodes and no link.
func Parse(text []byte) (*Map, error) {
	var f file
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&f)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		return nil, fmt.Errorf("distance: unknown key:\n%s", unknown.String())
	case errors.As(err, &wrong):
		line, column := wrong.Position()
		return nil, fmt.Errorf("distance: line %d, column %d: %w\n%s", line, column, err, wrong.String())
	case err != nil:
		return nil, fmt.Errorf("distance: %w", err)
	case f.Client == "" || len(f.Validators) == 0 || len(f.Layer2) == 0:
		return nil, errors.New("distance: client, validators and layer2 name the sites; at least one each")
	}
	m := &Map{client: f.Client, validators: f.Validators, layer2: f.Layer2, links: map[[2]string]link.Conditions{}}
	if m.near, err = f.Near.link(f.Near.Delay); err != nil {
		return nil, fmt.Errorf("distance: [near]: %w", err)
	}
	for i, l := range f.Links {
		if len(l.Between) != 2 || l.Between[0] == l.Between[1] || l.Between[0] == "" || l.Between[1] == "" {
			return nil, fmt.Errorf("distance: link %d: between names two sites (within a site it is [near])", i+1)
		}
		there := [2]string{l.Between[0], l.Between[1]}
		back := [2]string{there[1], there[0]}
		if _, ok := m.links[there]; ok {
			return nil, fmt.Errorf("distance: the link between %s and %s stands there twice", there[0], there[1])
		}
		if l.Back == 0 {
			l.Back = l.Delay
		}
		var errThere, errBack error
		m.links[there], errThere = l.link(l.Delay)
		m.links[back], errBack = l.link(l.Back)
		if err := errors.Join(errThere, errBack); err != nil {
			return nil, fmt.Errorf("distance: the link between %s and %s: %w", there[0], there[1], err)
		}
	}
	return m, m.complete()
}

// complete reports the first pair of sites that is used and has no link.
func (m *Map) complete() error {
	var sites []string
	seen := map[string]bool{}
	for _, list := range [][]string{{m.client}, m.validators, m.layer2} {
		for _, site := range list {
			if site == "" {
				return errors.New("distance: a site without a name")
			}
			if !seen[site] {
				sites, seen[site] = append(sites, site), true
			}
		}
	}
	if len(sites) > maxSites {
		return fmt.Errorf("distance: %d sites, at most %d", len(sites), maxSites)
	}
	for i, a := range sites {
		for _, b := range sites[:i] {
			if _, ok := m.links[[2]string{a, b}]; !ok {
				return fmt.Errorf("distance: no link between %s and %s", b, a)
			}
		}
	}
	return nil
}

// between are the conditions from one site to another.
func (m *Map) between(from, to string) link.Conditions {
	if from == to {
		return m.near
	}
	return m.links[[2]string{from, to}]
}

// Place puts a network on the map: validators first, then Layer 2 nodes, as everywhere. At least one validator.
func (m *Map) Place(validators, layer2 int) Placement {
	p := Placement{Validators: validators, Layer2: layer2}
	for i := range validators + layer2 {
		switch {
		case m.uniform != nil:
			p.Sites = append(p.Sites, fmt.Sprintf("site%d", i))
		case i < validators:
			p.Sites = append(p.Sites, m.validators[i%len(m.validators)])
		default:
			p.Sites = append(p.Sites, m.layer2[(i-validators)%len(m.layer2)])
		}
	}
	p.Sites = append(p.Sites, m.client)
	p.conditions = make([][]link.Conditions, len(p.Sites))
	for i, from := range p.Sites {
		p.conditions[i] = make([]link.Conditions, len(p.Sites))
		for j, to := range p.Sites {
			switch {
			case i == j:
			case m.uniform == nil:
				p.conditions[i][j] = m.between(from, to)
			case i == p.Client() || j == p.Client():
				p.conditions[i][j] = m.near
			default:
				p.conditions[i][j] = *m.uniform
			}
		}
	}
	return p
}

// Nowhere is a map without any distance.
func Nowhere() *Map { return &Map{client: "client", uniform: &link.Conditions{}} }
