package bench

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// Machine says where and with what something was measured. It does not name the machine.
type Machine struct {
	Date       time.Time `json:"date"` // UTC, to the second
	Cores      int       `json:"cores"`
	CPU        string    `json:"cpu,omitempty"`
	Memory     int64     `json:"memory_bytes,omitempty"`
	Kernel     string    `json:"kernel,omitempty"`
	FileSystem string    `json:"file_system,omitempty"` // of the nodes' data
	Load       float64   `json:"load_average"`          // of the last minute, at the start
	Go         string    `json:"go"`
	Platform   string    `json:"platform"`
	Version    string    `json:"version"`
	Revision   string    `json:"revision,omitempty"` // of the source, if the build recorded it
	Modified   bool      `json:"modified,omitempty"` // the source had changes that are not in the revision
	CometBFT   string    `json:"cometbft,omitempty"`
}

// ThisMachine describes this machine now. dir is where the nodes' data will be; empty: the system's folder for temporary
// files. What cannot be found out stays empty.
func ThisMachine(dir string) Machine {
	if dir == "" {
		dir = os.TempDir()
	}
	m := Machine{
		Date: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Load: Load(), Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Version: "(devel)", FileSystem: fileSystem(dir),
	}
	m.CPU = procField("/proc/cpuinfo", "model name")
	if kibibytes, err := strconv.ParseInt(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = kibibytes << 10
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = runtime.GOOS + " " + strings.TrimSpace(string(release))
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return m
	}
	if build.Main.Version != "" {
		m.Version = build.Main.Version
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			m.Revision = s.Value
		case "vcs.modified":
			m.Modified = s.Value == "true"
		}
	}
	for _, dep := range build.Deps {
		if dep.Path == "github.com/cometbft/cometbft" {
			m.CometBFT = dep.Version
		}
	}
	return m
}

// Load is the load average of the last minute; 0 where there is no /proc.
func Load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}

// procField is the first value of that name in a file of "name : value" lines.
func procField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fileSystem is the type of the file system that holds dir, as df names it; an fsync costs nothing on a tmpfs.
func fileSystem(dir string) string {
	out, err := exec.Command("df", "--output=fstype", dir).Output()
	if err != nil {
		return ""
	}
	_, last, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSpace(last)
}
