package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoPostgres says that this machine has no PostgreSQL server that could be started. Its text has the remedy.
var ErrNoPostgres = errors.New("no PostgreSQL server found below /usr/lib/postgresql/*/bin, or as initdb and postgres in $PATH; " +
	"install one (Debian: apt-get install postgresql; it need not run) or name its programs' directory with --postgres DIR")

// Postgres is a PostgreSQL server of the bench's own: made for one run in a temporary directory, reachable only through a
// Unix socket in it, and removed by Close. All its settings are the server's defaults: fsync, full_page_writes and
// synchronous_commit are on, so a transaction that is answered is on disk, as a step of Tandem's is.
type Postgres struct {
	dir     string
	version string
	server  *exec.Cmd
	ended   chan struct{} // closed when the server's process has ended
}

// How long the server may take for each of its ways; the first is for making the database, too.
const (
	postgresStart = 60 * time.Second
	postgresStop  = 10 * time.Second
)

// longestSocketDir is how many bytes a socket's directory may have: the system takes paths of 107, and PostgreSQL's name
// and that of its lock file follow.
const longestSocketDir = 107 - len("/.s.PGSQL.5432.lock")

// FindPostgres returns the directory with the newest PostgreSQL server's programs, and its major version where the
// directory's name tells it. Error: ErrNoPostgres.
func FindPostgres() (bin string, err error) { return findPostgres("/usr/lib/postgresql") }

// findPostgres looks into the directories of versions below root, then into $PATH.
func findPostgres(root string) (bin string, err error) {
	found, _ := filepath.Glob(filepath.Join(root, "*", "bin", "postgres")) // the pattern is good
	major := func(name string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(name)))) // no number sorts first
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return major(b) - major(a) })
	for _, name := range found {
		if _, err := os.Stat(filepath.Join(filepath.Dir(name), "initdb")); err == nil {
			return filepath.Dir(name), nil
		}
	}
	name, err := exec.LookPath("postgres")
	if err != nil {
		return "", ErrNoPostgres
	}
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return "", ErrNoPostgres
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(name), "initdb")); err != nil {
		return "", ErrNoPostgres
	}
	return filepath.Dir(name), nil
}

// StartPostgres makes a database below parent ("": the system's directory for temporary files) with the programs in bin,
// starts its server and waits until it takes connections. PostgreSQL refuses to run as root; started by root it runs as
// user postgres, or nobody where there is none.
func StartPostgres(ctx context.Context, bin, parent string) (p *Postgres, err error) {
	if parent == "" {
		parent = os.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "tandem-pg-")
	if err != nil {
		return nil, fmt.Errorf("postgresql: %w", err)
	}
	p = &Postgres{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("postgresql: %w", err), p.Close())
		}
	}()
	if len(dir) > longestSocketDir {
		return p, fmt.Errorf("the path of its Unix socket in %s would be too long; name a shorter directory", dir)
	}
	ctx, cancel := context.WithTimeout(ctx, postgresStart)
	defer cancel()
	as, err := servant(dir)
	if err != nil {
		return p, err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata", data, "--username", postgresUser,
		"--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-instructions")
	as(initdb)
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return p, fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	version, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return p, err
	}
	p.version = strings.TrimSpace(string(version))
	// Not CommandContext: a server that is killed leaves shared memory behind. Close stops it in an orderly way.
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir)
	as(server)
	server.Dir = dir
	log, err := server.StderrPipe()
	if err != nil {
		return p, err
	}
	if err := server.Start(); err != nil {
		return p, err
	}
	p.server, p.ended = server, make(chan struct{})
	ready := make(chan error, 1)
	go func() { // ends with the server, which owns the other end of the pipe
		defer close(p.ended)
		var last []string
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if strings.HasSuffix(lines.Text(), "database system is ready to accept connections") {
				ready <- nil
				ready = make(chan error, 1) // nobody waits any more
			}
			if last = append(last, lines.Text()); len(last) > 5 {
				last = last[1:]
			}
		}
		ready <- fmt.Errorf("the server ended (%v): %s", server.Wait(), strings.Join(last, "; "))
	}()
	select {
	case err := <-ready:
		return p, err
	case <-ctx.Done():
		return p, fmt.Errorf("the server is not ready: %w", context.Cause(ctx))
	}
}

// postgresUser is the database's one role and its name for connections.
const postgresUser = "tandem"

// Version is the server's major version, such as "15".
func (p *Postgres) Version() string { return p.version }

// Address is a connection string for pgx.
func (p *Postgres) Address() string {
	return fmt.Sprintf("host=%s user=%s database=postgres", p.dir, postgresUser)
}

// Close stops the server and removes its directory. It may be called on a server that did not start.
func (p *Postgres) Close() error {
	if p.server != nil {
		_ = p.server.Process.Signal(os.Interrupt) // fast shutdown; one that has ended needs none
		select {
		case <-p.ended:
		case <-time.After(postgresStop):
			_ = p.server.Process.Kill()
			<-p.ended
		}
	}
	return os.RemoveAll(p.dir)
}
