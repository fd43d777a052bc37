package bench

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// launched starts a network for a test and checks that Close leaves nothing behind.
func launched(t *testing.T, o NetworkOptions) *Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o.Dir = t.TempDir()
	n, err := Launch(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("Close leaves %v (%v)", left, err)
		}
	})
	return n
}

// buildTandem builds the program whose processes a network consists of.
func buildTandem(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "tandem")
	build := exec.Command("go", "build", "-o", name, "tandem/cmd/tandem")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return name
}

// Both kinds of network carry a package in both ways, and say what they have used.
func TestNetwork(t *testing.T) {
	for name, o := range map[string]NetworkOptions{
		"in process": {Validators: 1, Layer2: 2, InProcess: true},
		"processes":  {Validators: 1, Layer2: 1, Binary: buildTandem(t)},
	} {
		t.Run(name, func(t *testing.T) {
			n := launched(t, o)
			before, err := n.Usage()
			if err != nil {
				t.Fatal(err)
			}
			c, err := n.Client(nil)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			session, err := Carry(t.Context(), c, NewReference(), func(a Sample) {
				names = append(names, a.Operation)
				if a.Err != "" || a.Latency <= 0 || a.Start.IsZero() {
					t.Errorf("%+v", a)
				}
				// On a busy machine a step is answered before the second node has endorsed it.
				if IsStep(a.Operation) && (a.Endorsements < 1 || a.Endorsements > o.Layer2 || a.Of != o.Layer2) {
					t.Errorf("%s is endorsed by %d of %d; there are %d", a.Operation, a.Endorsements, a.Of, o.Layer2)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, o := range Operations {
				if i >= len(names) || names[i] != o.Name {
					t.Fatalf("operations %v", names)
				}
			}
			if _, proof, err := session.Receipt(t.Context(), n.Genesis()); err != nil || len(proof.Steps) != 5 {
				t.Errorf("the receipt does not prove five steps: %v", err)
			}
			var heights []int64
			if err := CarryOneLayer(t.Context(), c, NewReference(), func(a Sample) { heights = append(heights, a.Height) }); err != nil {
				t.Fatal(err)
			}
			for i := range heights {
				if len(heights) != 5 || i > 0 && heights[i] <= heights[i-1] {
					t.Errorf("heights %v: each of five steps in a block after the one before", heights)
				}
			}
			after, err := n.Usage()
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range Since(before, after) {
				if u.Name == "" || u.Role == "" || u.CPU < 0 || u.RSS < 1<<20 || u.Peak < u.RSS {
					t.Errorf("%+v", u)
				}
			}
			if err := n.Failed(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A node that cannot start is named; nothing stays behind.
func TestLaunchFails(t *testing.T) {
	t.Setenv("TANDEM_BENCH_TEST_EXIT", "1")
	o := NetworkOptions{Validators: 1, Layer2: 1, Dir: t.TempDir(), Binary: os.Args[0]}
	n, err := Launch(t.Context(), o)
	if err == nil {
		_ = n.Close()
		t.Fatal("a network of programs that end at once starts")
	}
	if !strings.Contains(err.Error(), "node") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("it does not say which and how: %v", err)
	}
	if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v (%v)", left, err)
	}
}
