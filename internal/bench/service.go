package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"tandem"
	"tandem/examples/supplychain"
)

// KeysService is the supply chain with two routes more and, in the genesis, with so many keys more in its state, which no
// million requests could put there in reasonable time. It runs only in one process with the bench.
//
//	POST /bench/keys/{n}   reads the n-th of those keys and changes it
//	POST /bench/notes      keeps the body, whatever it is
//
// Its handlers follow the rules for all handlers: the request and the State are their world.
func KeysService(keys int) tandem.Service {
	svc := supplychain.Service()
	svc.Name = "supplychain-bench"
	svc.Registry.HandleFunc("POST /bench/keys/{n}", changeKey)
	svc.Registry.HandleFunc("POST /bench/notes", keepNote)
	seed := svc.Genesis
	svc.Genesis = func(st tandem.State, raw json.RawMessage) error {
		for n := range keys {
			st.Set(benchKey(n), benchValue(n, 0))
		}
		return seed(st, raw)
	}
	return svc
}

// benchKey and benchValue are about as large as the keys and values of a service's records.
func benchKey(n int) []byte { return fmt.Appendf(nil, "bench/r/%08d", n) }

func benchValue(n, changed int) []byte {
	return fmt.Appendf(nil, `{"n":%d,"changed":%d,"filler":"a hundred bytes or so, as a small record has them when it is JSON ...."}`, n, changed)
}

func changeKey(w http.ResponseWriter, r *http.Request) {
	st := tandem.StateOf(r.Context())
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 0 {
		http.Error(w, "the path ends in a number", http.StatusBadRequest)
		return
	}
	value, ok := st.Get(benchKey(n))
	if !ok {
		http.Error(w, "there is no such key", http.StatusNotFound)
		return
	}
	var record struct{ Changed int }
	if err := json.Unmarshal(value, &record); err != nil {
		panic(err) // benchValue has made it
	}
	value = benchValue(n, record.Changed+1)
	st.Set(benchKey(n), value)
	writeJSON(w, value)
}

func keepNote(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	id := tandem.NewID(r.Context(), "NOTE-")
	tandem.StateOf(r.Context()).Set([]byte("bench/notes/"+id), body)
	writeJSON(w, fmt.Appendf(nil, `{"note_id":%q,"bytes":%d}`, id, len(body)))
}

func writeJSON(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // into the recorded answer
}
