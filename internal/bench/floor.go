package bench

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"tandem"
)

// Floor is the least that an answer costs which is signed for and durable: an HTTP round trip over loopback, an Ed25519
// signature made by the client and verified by the server, and an append of the request and its answer to a file with
// fsync. No handler runs, nothing is decoded, the answer is not signed. Its bytes are those of the real workflow.
type Floor struct {
	key      ed25519.PrivateKey
	public   ed25519.PublicKey
	script   []exchange
	log      *os.File
	server   *http.Server
	url      string
	http     *http.Client
	ended    chan struct{}
	protocol []byte // reused by the handler, which serves one client
}

// exchange is one request of the workflow with the answer that the service's handlers give.
type exchange struct {
	name, target string
	body, answer []byte
}

// rehearse carries a package through the workflow by calling the service's handlers on a state in memory, and returns
// what was said.
func rehearse(service tandem.Service, seed []byte, actor tandem.Actor) ([]exchange, error) {
	state := tandem.NewMapState()
	if service.Genesis != nil {
		if err := service.Genesis(state, seed); err != nil {
			return nil, err
		}
	}
	var script []exchange
	err := task(NewReference(), func(name, target string, body []byte) ([]byte, error) {
		r := httptest.NewRequest(http.MethodPost, target, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r = r.WithContext(tandem.WithStep(r.Context(), &tandem.Step{State: state, Now: time.Now().UTC().Truncate(time.Millisecond), Actor: actor,
			Position: tandem.Position{Session: "rehearsal", Sequence: uint64(len(script)) + 1}}))
		w := httptest.NewRecorder()
		service.Registry.ServeHTTP(w, r)
		if w.Code >= http.StatusBadRequest {
			return nil, fmt.Errorf("%s: the service answered %d: %s", name, w.Code, w.Body)
		}
		script = append(script, exchange{name, target, body, w.Body.Bytes()})
		return w.Body.Bytes(), nil
	})
	return script, err
}

// StartFloor starts the server on a free port of 127.0.0.1. Its file lies below dir ("": the system's directory for
// temporary files). commit is the size of a session commit in bytes; it stands for the commit, after the steps.
func StartFloor(service tandem.Service, seed []byte, actor tandem.Actor, commit int, dir string) (f *Floor, err error) {
	script, err := rehearse(service, seed, actor)
	if err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	content := make([]byte, commit)
	_, _ = rand.Read(content) // never fails
	f = &Floor{
		script: append(script, exchange{"commit", "/commit", content, make([]byte, 200)}),
		http:   &http.Client{Transport: &http.Transport{}}, ended: make(chan struct{}),
	}
	if f.public, f.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	if f.log, err = os.CreateTemp(dir, "tandem-floor-"); err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("floor: %w", err), f.log.Close(), os.Remove(f.log.Name()))
	}
	// Each new file's first blocks cost more than later ones, in every program here; it is synced with its directory once.
	if parent, err := os.Open(filepath.Dir(f.log.Name())); err == nil {
		_ = parent.Sync()
		_ = parent.Close()
	}
	f.url, f.server = "http://"+l.Addr().String(), &http.Server{Handler: http.HandlerFunc(f.serve), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(f.ended)
		_ = f.server.Serve(l) // ends with Close
	}()
	return f, nil
}

// signatureHeader carries the client's signature over the request's target and body, in base64.
const signatureHeader = "X-Signature"

// signed are the bytes that a request's signature is over.
func signed(target string, body []byte) []byte {
	digest := sha256.Sum256(body)
	return append([]byte(target+"\n"), digest[:]...)
}

// serve verifies, writes, syncs and answers.
func (f *Floor) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, tandem.MaxValue))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	signature, err := base64.StdEncoding.DecodeString(r.Header.Get(signatureHeader))
	if err != nil || !ed25519.Verify(f.public, signed(r.URL.Path, body), signature) {
		http.Error(w, "the signature is not the client's", http.StatusUnauthorized)
		return
	}
	i, err := strconv.Atoi(r.Header.Get("X-Step"))
	if err != nil || i < 0 || i >= len(f.script) {
		http.Error(w, "no such step", http.StatusNotFound)
		return
	}
	f.protocol = append(append(append(f.protocol[:0], r.URL.Path...), body...), f.script[i].answer...)
	if _, err = f.log.Write(f.protocol); err == nil {
		err = f.log.Sync()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(f.script[i].answer) // the client may have gone
}

// Carry makes the workflow's requests, one after the other, and notes each.
func (f *Floor) Carry(ctx context.Context, note func(Sample)) error {
	watch := stopwatch{time.Now(), note}
	for i, e := range f.script {
		err := watch.time(e.name, "", func(*Sample) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+e.target, bytes.NewReader(e.body))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Step", strconv.Itoa(i))
			r.Header.Set(signatureHeader, base64.StdEncoding.EncodeToString(ed25519.Sign(f.key, signed(e.target, e.body))))
			answer, err := post(f.http, r)
			if err == nil && len(answer) != len(e.answer) {
				err = fmt.Errorf("%d bytes of answer instead of %d", len(answer), len(e.answer))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// post sends a request and returns the answer's body; a status of 400 or more is an error.
func post(c *http.Client, r *http.Request) ([]byte, error) {
	w, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer w.Body.Close()
	body, err := io.ReadAll(w.Body)
	if err == nil && w.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("the service answered %d: %s", w.StatusCode, body)
	}
	return body, err
}

// Close ends the server and removes the file.
func (f *Floor) Close() error {
	err := f.server.Close()
	<-f.ended
	f.http.CloseIdleConnections()
	return errors.Join(err, f.log.Close(), os.Remove(f.log.Name()))
}
