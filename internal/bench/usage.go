package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// NodeUsage is what a node has used of the machine since it started.
type NodeUsage struct {
	// Name is the node's; of a network in one process there is one NodeUsage, of the whole process, the client included.
	Name string `json:"name"`
	// Role is "validator", "layer2" or "process" (everything in one process).
	Role string `json:"role"`
	// CPU is user and system time, in milliseconds, to a hundredth of a second (the kernel's clock tick).
	CPU float64 `json:"cpu_ms"`
	// RSS and Peak are the resident memory now and at most, in bytes.
	RSS  int64 `json:"rss_bytes"`
	Peak int64 `json:"peak_rss_bytes"`
}

// Usage reads from /proc what each node has used so far; take it before and after what is measured, and subtract the CPU time
// (Since). On a system without /proc it is an error.
func (n *Network) Usage() ([]NodeUsage, error) {
	if n.inside != nil {
		u, err := usageOf("self")
		u.Name, u.Role = "all nodes and the client", "process"
		return []NodeUsage{u}, err
	}
	var all []NodeUsage
	for _, p := range n.nodes {
		u, err := usageOf(strconv.Itoa(p.cmd.Process.Pid))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.cfg.Name, err)
		}
		u.Name, u.Role = p.cfg.Name, strings.Join(p.cfg.Roles, "+")
		all = append(all, u)
	}
	return all, nil
}

// Since is what was used between two readings: CPU time is the difference, memory is the later reading's.
func Since(before, after []NodeUsage) []NodeUsage {
	used := append([]NodeUsage(nil), after...)
	for i := range used {
		if i < len(before) && before[i].Name == used[i].Name {
			used[i].CPU -= before[i].CPU
		}
	}
	return used
}

// ticksPerSecond is Linux's USER_HZ, the unit of times in /proc; it is 100 on every architecture Go runs on.
const ticksPerSecond = 100

// usageOf reads /proc/PID/stat and /proc/PID/status.
func usageOf(pid string) (NodeUsage, error) {
	var u NodeUsage
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return u, fmt.Errorf("bench: usage: %w", err)
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return u, fmt.Errorf("bench: usage: %w", err)
	}
	// The second field is the program's name in parentheses and may hold anything; utime and stime are fields 14 and 15.
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return u, errors.New("bench: usage: /proc/PID/stat has another form")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return u, fmt.Errorf("bench: usage: %w", err)
	}
	u.CPU = float64(user+system) * float64(time.Second/time.Millisecond) / ticksPerSecond
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		to := map[string]*int64{"VmRSS": &u.RSS, "VmHWM": &u.Peak}[name]
		if f := strings.Fields(value); to != nil && len(f) == 2 {
			kibibytes, err := strconv.ParseInt(f[0], 10, 64)
			if err != nil {
				return u, fmt.Errorf("bench: usage: %w", err)
			}
			*to = kibibytes << 10
		}
	}
	return u, nil
}
