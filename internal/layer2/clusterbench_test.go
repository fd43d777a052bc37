package layer2

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"tandem/internal/ledger"
	"tandem/internal/peer"
	"tandem/internal/wire"
)

// BenchmarkStepCluster: a step with 1, 2 and 3 nodes in one run, over real gRPC and TLS on loopback, each node's log on
// the disk. Issue 3: the median with two nodes is at most 1.5 times that with one.
func BenchmarkStepCluster(b *testing.B) {
	for _, nodes := range []int{1, 2, 3} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			m := grpcCluster(b, nodes)
			u := m.nodes[0].user("alice")
			took := make([]time.Duration, 0, b.N)
			fewer := 0
			b.ResetTimer()
			for i := range b.N {
				if i%200 == 199 {
					b.StopTimer()
					u = m.nodes[0].user("alice")
					b.StartTimer()
				}
				p := u.sign("POST", fmt.Sprintf("/set/k%d", i%50), "", "value")
				began := time.Now()
				a, err := m.nodes[0].engine.Step(context.Background(), p)
				took = append(took, time.Since(began))
				if err != nil {
					b.Fatal(err)
				}
				if a.Endorsements < min(2, nodes) {
					fewer++
				}
				u.n, u.head = a.Sequence, a.Transcript
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "median-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(fewer), "fewer")
		})
	}
}

// grpcCluster is a cluster whose nodes speak gRPC and write to the disk.
func grpcCluster(b *testing.B, nodes int) *many {
	listeners := make([]net.Listener, nodes)
	var list []ledger.Node
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners[i] = l
		list = append(list, ledger.Node{Address: l.Addr().String()})
	}
	return newMany(b, nodes, func(i int, o *Options) {
		g, err := peer.NewGRPC(peer.Options{Key: o.Key, Listener: listeners[i]})
		if err != nil {
			b.Fatal(err)
		}
		dir, err := os.MkdirTemp("", "layer2-*")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.RemoveAll(dir) })
		o.Peers, o.FS, o.Wait = at{g, list}, prewritten{under{vfs.Default, dir}, logSize}, 50*time.Millisecond
	})
}

// at gives the nodes of the fake ledger's list their addresses.
type at struct {
	*peer.GRPC
	list []ledger.Node
}

func (a at) SetPeers(nodes []ledger.Node) {
	for i := range nodes {
		for j := range a.list {
			if fmt.Sprintf("node %d", j) == nodeName(nodes[i]) {
				nodes[i].Address = a.list[j].Address
			}
		}
	}
	a.GRPC.SetPeers(nodes)
}

func nodeName(n ledger.Node) string {
	for i := range 8 {
		name := fmt.Sprintf("node %d", i)
		if wirePublic(name) == n.Key {
			return name
		}
	}
	return ""
}

func wirePublic(name string) wire.PublicKey { return wire.PublicKeyOf(key(name)) }
