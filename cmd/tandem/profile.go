package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/client"
)

// defaultURL is where `tandem dev` listens.
const defaultURL = "http://127.0.0.1:8080"

// profile is the client's home: keys and open sessions, so that a person can carry a session through several
// invocations.
//
//	HOME/keys/NAME.key          keys (0600)
//	HOME/sessions/ID.json       sessions (0600): where, who signs, and the client's state of the session
//	HOME/sessions/ID.lock       held while a process uses the session
//	HOME/sessions/current       the id that "current" means
type profile struct {
	home string
	urls []string
	wait time.Duration
	who  signer
}

// signer says who acts: exactly one of the three.
type signer struct {
	key     string // key name or file
	demo    string // demo actor
	custody bool   // nobody here signs; the node does, for the actor
	actor   string // custody only: act as this actor, or as the node's default
}

func (p *profile) addHome(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.home, "home", "", "the client's home with keys and sessions (default $TANDEM_HOME, or the tandem folder of the user's configuration)")
}

func (p *profile) addURL(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&p.urls, "url", []string{defaultURL}, "base URL of a Layer 2 node; several, as a comma list or one --url each, are tried in order, and the network's other nodes are learned ($TANDEM_URL, a comma list, changes the default)")
	cmd.Flags().DurationVar(&p.wait, "wait", 10*time.Second, "how long to try, over all nodes, before giving up")
}

func (p *profile) addSigner(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.who.key, "key", "", "sign with this key: a name from \"tandem keys list\", or a file (default $TANDEM_KEY)")
	f.StringVar(&p.who.demo, "demo-key", "", "sign with the published key of a demo actor, such as OPR-001")
	f.BoolVar(&p.who.custody, "custody", false, "do not sign: the node signs, where its operator allows it (tandem dev does)")
	f.StringVar(&p.who.actor, "actor", "", "with --custody: act as this actor instead of the node's default one")
	cmd.MarkFlagsMutuallyExclusive("demo-key", "custody")
}

// nodes are the URLs to ask: --url, or TANDEM_URL, or where `tandem dev` listens.
func (p *profile) nodes(cmd *cobra.Command) []string {
	if env := os.Getenv("TANDEM_URL"); env != "" && !cmd.Flags().Changed("url") {
		return strings.Split(env, ",")
	}
	return p.urls
}

// client makes a client of these nodes.
func (p *profile) client(urls []string, key client.Key) (*client.Client, error) {
	c, err := client.New(client.Config{URLs: urls, Key: key, Patience: p.wait})
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// dir is the client's home.
func (p *profile) dir() (string, error) {
	home := p.home
	if home == "" {
		home = os.Getenv("TANDEM_HOME")
	}
	if home == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("no home for keys and sessions: %w; give --home", err)
		}
		home = filepath.Join(config, "tandem")
	}
	return filepath.Abs(home)
}

// ref is the key that signs. ok is false with --custody.
func (s signer) ref(cmd *cobra.Command) (ref keyRef, ok bool, err error) {
	explicit := cmd.Flags().Changed("key")
	switch {
	case s.custody && explicit, s.demo != "" && explicit:
		return keyRef{}, false, misused("--key, --demo-key and --custody exclude each other")
	case s.actor != "" && !s.custody:
		return keyRef{}, false, misused("--actor goes with --custody; otherwise the key says who acts")
	case s.custody:
		return keyRef{}, false, nil
	case s.demo != "":
		return keyRef{Demo: s.demo}, true, nil
	case s.key != "":
		return keyRef{File: s.key}, true, nil
	case os.Getenv("TANDEM_KEY") != "":
		return keyRef{File: os.Getenv("TANDEM_KEY")}, true, nil
	}
	return keyRef{}, false, misused("who acts? give --key NAME (tandem keys new makes one), --demo-key OPR-001 on a demo network, or --custody")
}

// savedSession is one session of this home.
type savedSession struct {
	ID     string          `json:"session_id"`
	URLs   []string        `json:"urls"`
	Key    *keyRef         `json:"key,omitempty"`   // absent in custody
	Actor  string          `json:"actor,omitempty"` // custody: acts as this actor
	Status string          `json:"status"`          // as this program last knew
	Opened time.Time       `json:"opened"`
	Steps  int             `json:"steps"`           // steps this program made
	State  json.RawMessage `json:"state,omitempty"` // the client's own state; absent in custody
}

var sessionName = regexp.MustCompile(`^[a-z2-7]{26}$`)

// sessionID resolves "current".
func (p *profile) sessionID(arg string) (string, error) {
	if arg != "current" {
		if !sessionName.MatchString(arg) {
			return "", misused("%q is no session id (26 characters of a-z 2-7) and not \"current\"", arg)
		}
		return arg, nil
	}
	home, err := p.dir()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(home, "sessions", "current"))
	id := strings.TrimSpace(string(b))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !sessionName.MatchString(id) {
		return "", errors.New("there is no current session; tandem session open makes one")
	}
	return id, err
}

func (p *profile) sessionFile(id, suffix string) (string, error) {
	home, err := p.dir()
	return filepath.Join(home, "sessions", id+suffix), err
}

// load reads a saved session.
func (p *profile) load(id string) (savedSession, error) {
	var s savedSession
	path, err := p.sessionFile(id, ".json")
	if err != nil {
		return s, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("session %s was not opened from this home (%s)", id, filepath.Dir(filepath.Dir(path)))
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// save writes a session as a whole or not at all: a crash leaves the old file or the new one.
func (p *profile) save(s savedSession) error {
	path, err := p.sessionFile(s.ID, ".json")
	if err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return replaceFile(path, append(b, '\n'))
}

// setCurrent makes the session the one that "current" means.
func (p *profile) setCurrent(id string) error {
	path, err := p.sessionFile("current", "")
	if err != nil {
		return err
	}
	return replaceFile(path, []byte(id+"\n"))
}

// sessions lists the saved sessions, newest first.
func (p *profile) sessions() ([]savedSession, error) {
	pattern, err := p.sessionFile("*", ".json")
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	all := []savedSession{}
	for _, path := range paths {
		s, err := p.load(strings.TrimSuffix(filepath.Base(path), ".json"))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b savedSession) int { return b.Opened.Compare(a.Opened) })
	return all, nil
}

// replaceFile writes a file that only its owner can read, in place of an older one, on disk when it returns.
func replaceFile(path string, content []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// voice is how one session is spoken to: signed by a key of ours, or unsigned, in custody.
type voice interface {
	Call(ctx context.Context, method, target, contentType string, body []byte) (*client.Answer, error)
	CommitAsync(ctx context.Context) (client.Outcome, error)
	CheckpointAsync(ctx context.Context) (client.Outcome, error)
	Abandon(ctx context.Context) error
}

// held is a saved session that this process holds the lock of.
type held struct {
	savedSession
	voice   voice
	client  *client.Client // nil in custody
	profile *profile
	unlock  func()
}

// hold loads a saved session and takes its lock, so that two processes do not go on with it at once. The caller ends
// with release.
func (p *profile) hold(cmd *cobra.Command, arg string) (_ *held, err error) {
	id, err := p.sessionID(arg)
	if err != nil {
		return nil, err
	}
	if _, err := p.load(id); err != nil { // before a lock file appears for a session that is not there
		return nil, err
	}
	lock, err := p.sessionFile(id, ".lock")
	if err != nil {
		return nil, err
	}
	h := &held{profile: p}
	if h.unlock, err = lockFile(lock); err != nil {
		return nil, fmt.Errorf("session %s is in use by another process: %w", id, err)
	}
	defer func() {
		if err != nil {
			h.unlock()
		}
	}()
	if h.savedSession, err = p.load(id); err != nil {
		return nil, err
	}
	if cmd.Flags().Changed("url") {
		h.URLs = p.urls
	}
	if h.Key == nil {
		c := newCustody(h.URLs, h.Actor, p.wait)
		c.session = h.ID
		h.voice = c
		return h, nil
	}
	key, err := p.key(cmd, *h.Key)
	if err != nil {
		return nil, err
	}
	c, err := p.client(h.URLs, key)
	if err != nil {
		return nil, err
	}
	h.client = c
	h.voice, err = c.Resume(h.State, client.WithSave(h.keep))
	return h, err
}

// keep saves the client's state of a signed session: before each request is sent, so that a crash never makes this
// program sign two requests for one position, and after each answer.
func (h *held) keep(state []byte) error {
	h.State = state
	return h.profile.save(h.savedSession)
}

// release saves what this program knows of the session, gives up the lock and returns err or what went wrong here.
func (h *held) release(err error) error {
	defer h.unlock()
	if signed, ok := h.voice.(*client.Session); ok {
		h.Status, h.Steps, h.URLs = signed.Status(), int(signed.Sequence()), h.client.URLs()
	}
	return errors.Join(err, h.profile.save(h.savedSession))
}
