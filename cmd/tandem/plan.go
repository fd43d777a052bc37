package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tandem/internal/bench/distance"
	"tandem/internal/bench/plan"
)

// newPlanCommand is `tandem plan`.
func newPlanCommand() *cobra.Command {
	var (
		w        plan.Workload
		f        distanceFlags
		measured []string
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Recommend how many validators and Layer 2 nodes a workload needs, and predict what they give",
		Long: `Recommends numbers of validators and Layer 2 nodes from what has to be survived and predicts latency and throughput of that network and
of others, with the reason for each number, the settings that distances ask for, and warnings wherever it knows little. It measures
nothing: it fits a model to measurements made before.

The model, in short (the output has it with its constants, docs/benchmarks.md explains it):
  validators = 3 f + 1; endorsements = lost disks + 1; Layer 2 nodes = endorsements + nodes down
  step   = a + b n (n+k) + c (k-1) + round trips to and between Layer 2 nodes       on machines of their own: as on the smallest measured network
  commit = d + e (n+k) + g n (n+k) + ways of transaction, proposal, two votes       n validators, k Layer 2 nodes
  sessions per second = processors / processor time per session: every node runs every session, more nodes carry no more

Constants are fitted, without negative ones, to summary.json files of ` + "`tandem bench paper`, `tandem bench wan` and `tandem bench load`" + `: those given with
--measured, or the ones built into this program. How far off the model is stands in the output: each measurement is predicted from all the
others. Times are medians in ms of a network at ease; they hold for the paper's handlers on machines like the measured one.

Exit code 1 if the recommended network does not meet what was asked; the plan is printed all the same.`,
		Example: `  tandem plan
  tandem plan --faults 2 --disks 1 --rate 20 --steps 8 --body 2000
  tandem plan --faults 1 --disks 1 --layer2-down 1 --matrix continents --max-commit 500
  tandem plan --measured bench-paper/summary.json --measured bench-wan/summary.json --one-machine --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.printMatrix {
				_, err := io.WriteString(cmd.OutOrStdout(), distance.ContinentsTOML())
				return err
			}
			scenarios, err := f.scenarios(false)
			if err != nil {
				return err
			}
			switch len(scenarios) {
			case 0:
			case 1:
				w.Map = scenarios[0].Map
			default:
				return misused("--matrix, --delay: a plan is for one set of distances")
			}
			m, err := readMeasured(measured)
			if err != nil {
				return err
			}
			p, err := plan.Recommend(m, w)
			if err != nil {
				return misused("%v", err)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), p)
			} else {
				err = printPlan(cmd.OutOrStdout(), p)
			}
			if err == nil && !p.Meets {
				err = errors.New("the recommended network does not meet what was asked; the warnings say why")
			}
			return err
		},
	}
	cmd.Flags().IntVarP(&w.Faults, "faults", "f", 1, "validators that may be down or lie at the same time")
	cmd.Flags().IntVar(&w.Disks, "disks", 1, "Layer 2 nodes that may lose their disks at the same time without the loss of an answered step")
	cmd.Flags().IntVar(&w.Down, "layer2-down", 0, "Layer 2 nodes that may be down while every step is still on as many disks")
	cmd.Flags().IntVar(&w.Steps, "steps", 5, "steps of a session")
	cmd.Flags().Float64Var(&w.Rate, "rate", 1, "sessions committed per second")
	cmd.Flags().IntVar(&w.Body, "body", 300, "bytes of a step's request body")
	f.add(cmd)
	cmd.Flags().BoolVar(&w.Shared, "one-machine", false, "all nodes on one machine, as in the measured runs; otherwise each on one of its own")
	cmd.Flags().IntVar(&w.Cores, "cores", 0, "processors of each machine; 0: as many as the measured one had")
	cmd.Flags().Float64Var(&w.MaxStep, "max-step", 0, "longest acceptable median step, ms; 0: any")
	cmd.Flags().Float64Var(&w.MaxCommit, "max-commit", 0, "longest acceptable median commit, ms; 0: any")
	cmd.Flags().Float64Var(&w.MaxWorkflow, "max-workflow", 0, "longest acceptable median session from opening to commit, ms; 0: any")
	cmd.Flags().StringArrayVar(&measured, "measured", nil, "summary.json of bench paper, wan or load to fit the model to; repeat it for several (default: the built-in ones)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as JSON")
	return cmd
}

// readMeasured reads the measurements to fit the model to.
func readMeasured(files []string) (plan.Measured, error) {
	if len(files) == 0 {
		return plan.Default()
	}
	var m plan.Measured
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return m, err
		}
		if err := m.Add(name, text); err != nil {
			return m, err
		}
	}
	return m, nil
}

// printPlan prints a plan for people.
func printPlan(w io.Writer, p *plan.Plan) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) } // an error stays with out and comes from Flush
	list := func(head string, items []string) {
		if len(items) == 0 {
			return
		}
		line("\n%s", head)
		for _, item := range items {
			line("  - %s", item)
		}
	}
	c := p.Chosen
	line("%s: %s, %s; %s of each step", c.Config, count(p.Validators, "validator"), count(p.Layer2, "Layer 2 node"), count(p.Need, "endorsement"))
	line("predicted (median ms): step %.1f (distance %.1f), commit %.1f (distance %.1f), workflow %.1f; on one layer %.1f", c.Step, c.StepDistance, c.Commit, c.CommitDistance, c.Workflow, c.OneLayer)
	if c.Sessions > 0 {
		line("throughput: %.4g sessions per second keep %s fully busy; the workload is %.3g %% of that", c.Sessions, c.Bound, 100*c.Utilisation)
	}
	list("why", p.Reasons)
	var settings []string
	for _, s := range p.Settings {
		settings = append(settings, fmt.Sprintf("%s = %s: %s", s.Key, s.Value, s.Reason))
	}
	list("settings", settings)
	list("warnings", p.Warnings)
	line("\nconfigurations (median ms, sessions per second)")
	line("  config\tfaults\tdisks\tstep\tcommit\tworkflow\t1 layer\tsessions/s\t")
	for _, a := range p.Around {
		sessions := "?"
		if a.Sessions > 0 {
			sessions = fmt.Sprintf("%.4g", a.Sessions)
		}
		mark := ""
		if len(a.Beyond) > 0 {
			mark = " *"
		}
		line("  %s\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%s\t%s%s", a.Config, a.Faults, a.Disks, a.Step, a.Commit, a.Workflow, a.OneLayer, sessions, a.Note, mark)
	}
	line("  * goes beyond what was measured")
	list("model", p.Formulas)
	list("fitted to", p.Sources)
	if len(p.Accuracy) > 0 {
		line("\nhow far off: each measurement predicted from all the others")
		line("  what\tconfig\tpredicted\tmeasured\terror\t")
		for _, a := range p.Accuracy {
			note := ""
			if a.Outside {
				note = "outside the others"
			}
			line("  %s\t%s\t%.2f\t%.2f\t%+.0f %%\t%s", a.What, a.Config, a.Predicted, a.Measured, a.Error, note)
		}
		mean, most := plan.Summarise(p.Accuracy)
		line("  mean %.0f %%, at most %.0f %%", mean, most)
	}
	return out.Flush()
}
