package servicetest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"tandem"
	"tandem/node"
	"tandem/servicetest"
)

// The code of docs/service.md that is not in the root package's example.

// Visit is an entry of the guest book.
type Visit struct {
	Guest string `json:"guest"`
	Text  string `json:"text"`
}

var visits = tandem.NewCollection("visits", tandem.By("guest", func(v Visit) string { return v.Guest }))

// Guestbook is the service of the guide.
func Guestbook() tandem.Service {
	var reg tandem.Registry
	reg.HandleFunc("POST /visits", sign)
	reg.HandleFunc("GET /visits/{id}", show)
	reg.HandleFunc("GET /visits", list)
	return tandem.Service{Name: "guestbook", Version: "1", Registry: &reg, Genesis: seed}
}

func sign(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	actor := tandem.ActorOf(ctx)
	if !actor.Has("guest") {
		http.Error(w, "only guests sign", http.StatusForbidden)
		return
	}
	var in struct{ Text string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Text == "" {
		http.Error(w, "want {\"text\": \"...\"}", http.StatusBadRequest)
		return
	}
	id := tandem.NewID(ctx, "VIS-")
	visits.Put(tandem.StateOf(ctx), id, Visit{Guest: actor.ID, Text: in.Text})
	w.Header().Set("Location", "/visits/"+id)
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(map[string]string{"visit_id": id})
}

func show(w http.ResponseWriter, r *http.Request) {
	v, ok := visits.Get(tandem.StateOf(r.Context()), r.PathValue("id"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	json.NewEncoder(w).Encode(v)
}

func list(w http.ResponseWriter, r *http.Request) {
	q := tandem.Query{After: r.FormValue("after"), Limit: 20}
	if guest := r.FormValue("guest"); guest != "" {
		q.Index, q.Value = "guest", guest
	}
	page, err := visits.List(tandem.StateOf(r.Context()), q)
	if err != nil { // only a cursor that is not ours
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	json.NewEncoder(w).Encode(page)
}

func seed(st tandem.State, raw json.RawMessage) error {
	var first []Visit
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &first); err != nil {
			return err
		}
	}
	for i, v := range first {
		visits.Put(st, fmt.Sprintf("VIS-%06d", i), v)
	}
	return nil
}

func run(ctx context.Context, home string) error {
	cfg, err := node.Load(home)
	if err != nil {
		return err
	}
	n, err := node.New(cfg, Guestbook())
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

func TestGuestbook(t *testing.T) {
	book := servicetest.New(t, Guestbook(), servicetest.Options{
		Seed: json.RawMessage(`[{"guest": "G-000", "text": "first"}]`),
	})
	guest := book.As(tandem.Actor{ID: "G-001", Roles: []string{"guest"}})

	var made struct {
		ID string `json:"visit_id"`
	}
	guest.Do("POST", "/visits", map[string]string{"text": "hello"}).Want(201).JSON(&made)
	guest.Do("POST", "/visits", "{").Want(400)
	book.As(tandem.Actor{ID: "X"}).Do("POST", "/visits", nil).Want(403)

	book.Open() // a new session, as if the first had been committed
	guest.Do("GET", "/visits/"+made.ID, nil).Want(200)
	guest.Read("/visits?guest=G-001").Want(200)
}

// A node's main: run compiles against node's API; without a home it says so.
func TestRunWithoutHome(t *testing.T) {
	if err := run(t.Context(), t.TempDir()); err == nil {
		t.Error("a node runs without a configuration")
	}
}

// STYLE 15: documentation is executed. Every Go block of docs/service.md stands, line for line, in a file that is tested.
func TestGuideIsTested(t *testing.T) {
	guide := read(t, "../docs/service.md")
	tested := plain(read(t, "guide_test.go")) + plain(read(t, "../example_test.go"))
	blocks := strings.Split(guide, "```go\n")[1:]
	if len(blocks) < 5 {
		t.Fatalf("docs/service.md has %d Go blocks", len(blocks))
	}
	for _, b := range blocks {
		code, _, _ := strings.Cut(b, "```")
		if !strings.Contains(tested, plain(code)) {
			t.Errorf("not in a tested file:\n%s", code)
		}
	}
}

// plain drops indentation and empty lines.
func plain(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
