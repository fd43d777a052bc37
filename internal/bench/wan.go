package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/client"
	"tandem/internal/bench/distance"
	"tandem/node"
)

// Scenario is one set of distances.
type Scenario struct {
	Name string
	Map  *distance.Map
}

// LocalScenario is the name of the scenario that is always measured: all nodes in one place, the client as far from them as in
// the first scenario of WANOptions.
const LocalScenario = "local"

// WANOptions say what WAN measures.
type WANOptions struct {
	Validators, Layer2 int
	// Scenarios are the distances to measure beside none; at least one.
	Scenarios []Scenario
	// Runs is the number of measured workflows of each scenario, OneLayer that of workflows on one layer; they are spread over Rounds rounds, in
	// each of which every scenario has its turn.
	Runs, OneLayer, Rounds int
	// Busy begins each workflow in a session right after the one before. Otherwise it waits, outside the measured time, until the ledger is
	// quiet: each block that changes the state is followed by an empty one that proves it, and a commit that comes too early
	// waits for that one first.
	Busy bool
	// Seed decides jitter and loss.
	Seed uint64
	// Out is the directory that the results are written into; it must not hold any.
	Out string
	// InProcess, Data and Binary are NetworkOptions' InProcess, Dir and Binary.
	InProcess    bool
	Data, Binary string
	// Progress shows how far it is.
	Progress io.Writer
	// Measured, if not nil, is called after each whole workflow with the number so far.
	Measured func(int)
}

// WANSummary is what `tandem bench wan` writes into summary.json. Times are in milliseconds.
type WANSummary struct {
	Kind       string  `json:"kind"` // "wan"
	Machine    Machine `json:"machine"`
	Processes  bool    `json:"processes"` // each node was a process of its own
	Config     string  `json:"config"`
	Validators int     `json:"validators"`
	Layer2     int     `json:"layer2"`
	Seed       uint64  `json:"seed"`
	Rounds     int     `json:"rounds"`
	Busy       bool    `json:"busy"` // workflows in sessions were begun without waiting until the ledger was quiet
	// Propose and Wait are consensus.propose and layer2.wait of all nodes, chosen by the distances and the same in all scenarios.
	Propose float64 `json:"consensus_propose_ms"`
	Wait    float64 `json:"layer2_wait_ms"`
	// Interrupted: not everything that was asked for has been measured, since the program was stopped; Error: since something failed.
	Interrupted bool           `json:"interrupted"`
	Error       string         `json:"error,omitempty"`
	Scenarios   []*WANScenario `json:"scenarios"` // the first is LocalScenario
	LoadEnd     float64        `json:"load_average_end"`
}

// WANScenario is what was measured with one set of distances.
type WANScenario struct {
	Name string `json:"name"`
	// Sites are where the nodes are, validators first, and last the client; Delays the one-way delays between them, from row to
	// column. Jitter, loss, bandwidth are those of Links, where there are any.
	Sites  []string    `json:"sites"`
	Delays [][]float64 `json:"one_way_ms"`
	Links  []WANLink   `json:"links,omitempty"`

	StepMedian     float64 `json:"step_median_ms"`
	CommitMedian   float64 `json:"commit_median_ms"`
	WorkflowMedian float64 `json:"workflow_median_ms"`
	// StepFloor is what distance alone makes a step take at least; CommitFloor the same of a commit, the mean over the proposers
	// of the blocks that held the commits; ProposerFloors by proposer. CommitOverFloor is the median of what commits took beyond the floor
	// of their own block's proposer.
	StepFloor       float64   `json:"step_floor_ms"`
	CommitFloor     float64   `json:"commit_floor_ms"`
	ProposerFloors  []float64 `json:"commit_floor_by_proposer_ms"`
	CommitOverFloor float64   `json:"commit_over_floor_median_ms"`
	// Against LocalScenario, same run: differences of the medians, and the commits' ratio.
	StepOverLocal   float64 `json:"step_over_local_ms"`
	CommitOverLocal float64 `json:"commit_over_local_ms"`
	CommitRatio     float64 `json:"commit_ratio"`
	// OneLayer is the same steps with each one committed on Layer 1; OneLayerRatio its workflow's median by that in sessions.
	OneLayerStepMedian     float64 `json:"one_layer_step_median_ms"`
	OneLayerWorkflowMedian float64 `json:"one_layer_workflow_median_ms"`
	OneLayerRatio          float64 `json:"one_layer_ratio"`

	Workflows        int    `json:"workflows"`
	Failures         int    `json:"failures"`
	OneLayerFailures int    `json:"one_layer_failures"`
	FirstFailure     string `json:"first_failure,omitempty"`
	Lost             int64  `json:"segments_lost"` // by the links, during this scenario
	// Operations are the latencies of "open", "create", ... "commit", of any "step" and of the "workflow"; OneLayer of the steps and "workflow".
	Operations map[string]Distribution `json:"operations"`
	OneLayer   map[string]Distribution `json:"one_layer"`

	place    distance.Placement
	samples  []Sample
	oneLayer []Sample
}

// WANLink is a way between two places that is not only long.
type WANLink struct {
	From      string  `json:"from"`
	To        string  `json:"to"`
	Delay     float64 `json:"delay_ms"`
	Jitter    float64 `json:"jitter_ms"`
	Loss      float64 `json:"loss"`
	Bandwidth int64   `json:"bytes_per_second,omitempty"`
}

// wanRun is a measurement under way.
type wanRun struct {
	o       WANOptions
	mesh    *mesh
	summary WANSummary
	csv     *Writer
	file    *os.File
	network *Network
	client  *client.Client
	done    int   // workflows
	height  int64 // of the newest block that is known to hold one of ours
}

// WAN measures the workflow over emulated distances: on one network, whose links take the distances of each scenario in turn,
// round after round, so that all scenarios meet the same machine in the same mood. After each change one workflow goes uncounted.
// It writes samples while it measures and everything else at the end, also when ctx ends early (then Interrupted is set; the workflow
// under way is left out) and when a node or a link fails (then Error is set). The error is about options and files.
func WAN(ctx context.Context, o WANOptions) (*WANSummary, error) {
	r := &wanRun{o: o, mesh: &mesh{validators: o.Validators, layer2: o.Layer2, seed: o.Seed}}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	defer r.file.Close()
	err := r.measure(ctx)
	if r.summary.Interrupted = ctx.Err() != nil; err != nil && !r.summary.Interrupted {
		r.summary.Error = err.Error()
	}
	r.summary.LoadEnd = Load()
	r.sum()
	return &r.summary, r.write()
}

// prepare checks the scenarios and opens the output.
func (r *wanRun) prepare() error {
	o := r.o
	if len(o.Scenarios) == 0 || o.Runs < 1 || o.Rounds < 1 || o.OneLayer < 0 {
		return errors.New("bench: wan: at least one scenario, one run and one round")
	}
	first := o.Scenarios[0].Map.Place(o.Validators, o.Layer2)
	r.add(LocalScenario, first.Together())
	var farthest, endorse time.Duration
	for _, s := range o.Scenarios {
		p := s.Map.Place(o.Validators, o.Layer2)
		if err := fits(p); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		r.add(s.Name, p)
		farthest = max(farthest, p.Farthest())
		for i := o.Validators; i < p.Client(); i++ {
			for j := range i - o.Validators {
				endorse = max(endorse, p.Between(i, o.Validators+j).Delay+p.Between(o.Validators+j, i).Delay)
			}
		}
	}
	// A validator waits for a proposal from when it has the transaction; the proposer may get that later by one delay, and its
	// proposal takes another. A Layer 2 node waits for the others' endorsements as long as these take, and the default beyond.
	defaults := node.Default("")
	propose := time.Duration(o.Validators)*35*time.Millisecond + 240*time.Millisecond + 2*farthest
	wait := time.Duration(defaults.Layer2.Wait) + endorse
	r.summary = WANSummary{
		Kind: "wan", Machine: ThisMachine(o.Data), Processes: !o.InProcess, Config: fmt.Sprintf("%d-%d", o.Validators, o.Layer2),
		Validators: o.Validators, Layer2: o.Layer2, Seed: o.Seed, Rounds: o.Rounds, Busy: o.Busy, Propose: Millis(propose), Wait: Millis(wait), Scenarios: r.summary.Scenarios,
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	var err error
	if r.file, err = os.OpenFile(filepath.Join(o.Out, "requests.csv"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("bench: %s holds a measurement already: choose another directory", o.Out)
		}
		return fmt.Errorf("bench: %w", err)
	}
	r.csv, err = NewWriter(r.file, true)
	return err
}

func (r *wanRun) add(name string, p distance.Placement) {
	s := &WANScenario{Name: name, Sites: p.Sites, place: p, StepFloor: Millis(p.StepFloor(r.need())), CommitFloor: Millis(p.MeanCommitFloor())}
	for i, from := range p.Sites {
		row := make([]float64, len(p.Sites))
		for j, to := range p.Sites {
			c := p.Between(i, j)
			row[j] = Millis(c.Delay)
			if c.Jitter > 0 || c.Loss > 0 || c.Bandwidth > 0 {
				s.Links = append(s.Links, WANLink{from, to, Millis(c.Delay), Millis(c.Jitter), c.Loss, c.Bandwidth})
			}
		}
		s.Delays = append(s.Delays, row)
	}
	for v := range p.Validators {
		s.ProposerFloors = append(s.ProposerFloors, Millis(p.CommitFloor(v)))
	}
	r.summary.Scenarios = append(r.summary.Scenarios, s)
}

// need is how many Layer 2 nodes endorse a step before it is answered.
func (r *wanRun) need() int { return node.Default("").Layer2.Need }

// measure starts the network and goes through the rounds.
func (r *wanRun) measure(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, r.mesh.Close()) }()
	r.network, err = Launch(ctx, NetworkOptions{
		Validators: r.o.Validators, Layer2: r.o.Layer2, InProcess: r.o.InProcess, Dir: r.o.Data, Binary: r.o.Binary,
		Configure: func(i int, cfg *node.Config) {
			r.mesh.configure(i, cfg)
			cfg.Consensus.Propose = node.Duration(r.summary.Propose * float64(time.Millisecond))
			cfg.Layer2.Wait = node.Duration(r.summary.Wait * float64(time.Millisecond))
		},
	})
	if err != nil {
		return errors.Join(err, r.mesh.err)
	}
	defer func() { err = errors.Join(err, r.network.Close()) }()
	if err := r.mesh.check(r.network.Configs()); err != nil {
		return err
	}
	if err := r.mesh.awaitConnected(ctx); err != nil {
		return err
	}
	home := r.summary.Scenarios[0].place.Home() - r.o.Validators
	r.client, err = r.network.Client(func(c *client.Config) {
		c.URLs = append([]string{r.mesh.urls[home]}, r.mesh.urls...)
	})
	if err != nil {
		return err
	}
	progress := NewProgress(r.o.Progress, (r.o.Runs+r.o.OneLayer)*len(r.summary.Scenarios), "workflows on "+r.summary.Config+" over "+fmt.Sprint(len(r.summary.Scenarios)-1)+" sets of distances and none")
	defer progress.Done()
	for round := range r.o.Rounds {
		for i := range r.summary.Scenarios {
			// Another one begins each round.
			s := r.summary.Scenarios[(round+i)%len(r.summary.Scenarios)]
			if err := r.turn(ctx, s, wanShare(r.o.Runs, r.o.Rounds, round), wanShare(r.o.OneLayer, r.o.Rounds, round), progress); err != nil {
				return err
			}
		}
	}
	if err := r.mesh.connected(); err != nil {
		return err
	}
	return r.floors(ctx)
}

// wanShare is the part of n that falls on one of so many rounds.
func wanShare(n, rounds, round int) int { return n*(round+1)/rounds - n*round/rounds }

// turn measures one scenario for a while. Workflows that fail are counted; only a network that is gone ends it.
func (r *wanRun) turn(ctx context.Context, s *WANScenario, runs, oneLayer int, progress *Progress) error {
	if runs+oneLayer == 0 {
		return nil
	}
	if err := r.mesh.place(s.place); err != nil {
		return err
	}
	lost := r.mesh.lost()
	defer func() { s.Lost += r.mesh.lost() - lost }()
	for n := range 1 + runs + oneLayer { // the first is not counted: it meets what the last scenario left
		config, into := r.summary.Config+" "+s.Name, &s.samples
		if n > runs {
			config, into = config+" one layer", &s.oneLayer
		}
		if n <= runs && !r.o.Busy {
			if err := r.quiet(ctx, s); err != nil {
				return err
			}
		}
		var taken []Sample
		note := func(a Sample) {
			a.Config, a.Iteration = config, r.done+1
			taken = append(taken, a)
		}
		var err error
		if n > runs {
			err = CarryOneLayer(ctx, r.client, NewReference(), note)
		} else {
			_, err = Carry(ctx, r.client, NewReference(), note)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, a := range taken {
			if a.Layer == L1 {
				r.height = max(r.height, a.Height)
			}
		}
		if err != nil {
			if gone := r.network.Failed(); gone != nil {
				return errors.Join(gone, err)
			}
		}
		if n == 0 {
			continue
		}
		*into = append(*into, taken...)
		if err := r.csv.Write(taken...); err != nil {
			return err
		}
		r.done++
		progress.Add(1)
		if r.o.Measured != nil {
			r.o.Measured(r.done)
		}
	}
	return nil
}

// quiet waits until the ledger has nothing to do: the Layer 2 node has the block after the newest that holds a commit of ours, and the
// other nodes have had the time to get it too. A node that makes no such block is not waited for longer than quietWait.
func (r *wanRun) quiet(ctx context.Context, s *WANScenario) error {
	limit, cancel := context.WithTimeout(ctx, quietWait)
	defer cancel()
	ask := time.NewTicker(10 * time.Millisecond)
	defer ask.Stop()
	for r.height > 0 && limit.Err() == nil {
		about, err := r.client.Status(ctx)
		if err != nil {
			return err
		}
		if about.Height > r.height {
			break
		}
		select {
		case <-limit.Done():
		case <-ask.C:
		}
	}
	rest := time.NewTimer(s.place.Farthest())
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-rest.C:
		return nil
	}
}

// quietWait is less than a heartbeat, after which an empty block comes anyhow.
const quietWait = 3 * time.Second

// floors asks who proposed the blocks that hold the commits: the floor of a commit depends on where its proposer is.
func (r *wanRun) floors(ctx context.Context) error {
	var genesis struct {
		Validators []struct {
			Address string `json:"address"`
		} `json:"validators"`
	}
	if err := json.Unmarshal(r.network.Genesis(), &genesis); err != nil {
		return fmt.Errorf("bench: genesis: %w", err)
	}
	for _, s := range r.summary.Scenarios {
		var over, floors []time.Duration
		for _, a := range s.samples {
			if a.Operation != "commit" || a.Err != "" {
				continue
			}
			text, err := r.client.Block(ctx, a.Height)
			if err != nil {
				return err
			}
			var block struct {
				Proposer string `json:"proposer"`
			}
			if err := json.Unmarshal(text, &block); err != nil {
				return fmt.Errorf("bench: block %d: %w", a.Height, err)
			}
			for v, validator := range genesis.Validators {
				if strings.EqualFold(validator.Address, block.Proposer) {
					floor := s.place.CommitFloor(v)
					over, floors = append(over, a.Latency-floor), append(floors, floor)
				}
			}
		}
		if len(over) > 0 {
			s.CommitOverFloor, s.CommitFloor = Distribute(over).Median, Distribute(floors).Mean
		}
	}
	return nil
}

// sum computes what follows from the samples.
func (r *wanRun) sum() {
	local := r.summary.Scenarios[0]
	for _, s := range r.summary.Scenarios {
		s.Operations, s.Workflows, s.Failures, s.FirstFailure = wanOperations(s.samples)
		var first string
		s.OneLayer, _, s.OneLayerFailures, first = wanOperations(s.oneLayer)
		if s.FirstFailure == "" {
			s.FirstFailure = first
		}
		s.StepMedian, s.CommitMedian, s.WorkflowMedian = s.Operations["step"].Median, s.Operations["commit"].Median, s.Operations["workflow"].Median
		s.OneLayerStepMedian, s.OneLayerWorkflowMedian = s.OneLayer["step"].Median, s.OneLayer["workflow"].Median
		if local.CommitMedian > 0 && s.CommitMedian > 0 {
			s.StepOverLocal, s.CommitOverLocal, s.CommitRatio = toThousandth(s.StepMedian-local.StepMedian), toThousandth(s.CommitMedian-local.CommitMedian), toThousandth(s.CommitMedian/local.CommitMedian)
		}
		if s.WorkflowMedian > 0 {
			s.OneLayerRatio = toThousandth(s.OneLayerWorkflowMedian / s.WorkflowMedian)
		}
	}
}

// wanOperations is the distributions of each operation among samples, of any step, and of the workflows.
func wanOperations(samples []Sample) (all map[string]Distribution, whole, failed int, first string) {
	all = map[string]Distribution{}
	for _, o := range Operations {
		if took := Latencies(samples, func(a Sample) bool { return a.Operation == o.Name }); len(took) > 0 {
			all[o.Name] = Distribute(took)
		}
	}
	all["step"] = Distribute(Latencies(samples, func(a Sample) bool { return IsStep(a.Operation) }))
	workflows, failed := Workflows(samples)
	all["workflow"] = Distribute(workflows)
	for _, a := range samples {
		if a.Err != "" {
			first = a.Err
			break
		}
	}
	return all, len(workflows), failed, first
}

// toThousandth is v to a thousandth.
func toThousandth(v float64) float64 {
	if v < 0 {
		return -toThousandth(-v)
	}
	return float64(int64(v*1000+0.5)) / 1000
}

// Failures is how many workflows failed.
func (s *WANSummary) Failures() int {
	n := 0
	for _, c := range s.Scenarios {
		n += c.Failures + c.OneLayerFailures
	}
	return n
}
