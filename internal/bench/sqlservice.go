package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"tandem"
)

// actorHeader names who makes a request to an SQLService, as a login in front of an ordinary service would.
const actorHeader = "X-Actor"

// SQLService is a service's handlers as an ordinary web service: net/http in front, PostgreSQL behind, one serializable
// SQL transaction for each request, answered after its commit. Nobody signs and nobody checks signatures. It is what
// somebody would write who needs no Byzantine fault tolerance, and it is written to be fast: a transaction's writes are
// sent in one batch, statements are prepared once, connections are pooled.
type SQLService struct {
	pool    *pgxpool.Pool
	service tandem.Service
	actors  map[string]tandem.Actor
	server  *http.Server
	client  *http.Client // for Carry; its connections are its own
	url     string
	ended   chan struct{}
}

// The statements. A handler's State is one table of bytes; their order is that of memcmp, as in tandem.State.
const (
	createState = "create table state (key bytea primary key, value bytea not null)"
	selectOne   = "select value from state where key = $1"
	selectFrom  = "select key, value from state where key >= $1 order by key"
	selectRange = "select key, value from state where key >= $1 and key < $2 order by key"
	upsert      = "insert into state values ($1, $2) on conflict (key) do update set value = excluded.value"
	deleteOne   = "delete from state where key = $1"
)

// StartSQLService makes the table in the database at address, writes the service's first state from seed and serves on a
// free port of 127.0.0.1. Actors are known by the X-Actor header.
func StartSQLService(ctx context.Context, address string, service tandem.Service, seed []byte, actors []tandem.Actor) (s *SQLService, err error) {
	pool, err := pgxpool.New(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("sql service: %w", err)
	}
	s = &SQLService{pool: pool, service: service, actors: map[string]tandem.Actor{}, ended: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{}}}
	for _, a := range actors {
		s.actors[a.ID] = a
	}
	defer func() {
		if err != nil {
			pool.Close()
			err = fmt.Errorf("sql service: %w", err)
		}
	}()
	if _, err := pool.Exec(ctx, createState); err != nil {
		return nil, err
	}
	if service.Genesis != nil {
		if err := s.transaction(ctx, func(st *sqlState) (bool, error) { return true, service.Genesis(st, seed) }); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.url, s.server = "http://"+l.Addr().String(), &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.ended)
		_ = s.server.Serve(l) // ends with Close
	}()
	return s, nil
}

// URL is where the service listens.
func (s *SQLService) URL() string { return s.url }

// Close ends the service. The database is its owner's.
func (s *SQLService) Close() error {
	err := s.server.Close()
	<-s.ended
	s.client.CloseIdleConnections()
	s.pool.Close()
	return err
}

// ServeHTTP answers one request in one SQL transaction. A status of 400 or more rolls it back.
func (s *SQLService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, tandem.MaxValue))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer *httptest.ResponseRecorder
	err = s.transaction(r.Context(), func(st *sqlState) (bool, error) {
		step := &tandem.Step{
			State: st, Now: time.Now().UTC().Truncate(time.Millisecond), Actor: s.actors[r.Header.Get(actorHeader)],
			Position: tandem.Position{Session: strings.ToLower(rand.Text()), Sequence: 1}, // NewID's source
		}
		again := r.WithContext(tandem.WithStep(r.Context(), step))
		again.Body = io.NopCloser(bytes.NewReader(body))
		answer = httptest.NewRecorder()
		s.service.Registry.ServeHTTP(answer, again)
		return answer.Code < http.StatusBadRequest, nil
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // the client may have gone
}

// attempts is how often a transaction is tried that the database gives up for the sake of another.
const attempts = 100

// transaction runs f in a transaction and commits it if f says so. PostgreSQL ends a serializable transaction that met
// another with code 40001; it is then run again.
func (s *SQLService) transaction(ctx context.Context, f func(*sqlState) (keep bool, err error)) error {
	for try := 1; ; try++ {
		err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
			st := &sqlState{ctx: ctx, tx: tx, written: map[string][]byte{}}
			keep, err := f(st)
			switch {
			case err != nil:
				return err
			case st.failed != nil:
				return st.failed
			case !keep:
				return errDropped
			}
			return st.flush()
		})
		var conflict *pgconn.PgError
		switch {
		case errors.Is(err, errDropped):
			return nil
		case errors.As(err, &conflict) && conflict.Code == "40001" && try < attempts:
			continue
		}
		return err
	}
}

// errDropped has a transaction rolled back whose answer counts all the same.
var errDropped = errors.New("rolled back")

// sqlState is tandem.State over the table, within one transaction and on the goroutine that runs it. State has no
// errors, so the first one is kept, everything after it finds nothing, and the transaction fails.
type sqlState struct {
	ctx     context.Context
	tx      pgx.Tx
	written map[string][]byte // not yet sent; nil means deleted
	failed  error
}

// Get implements tandem.State.
func (s *sqlState) Get(key []byte) ([]byte, bool) {
	if v, ok := s.written[string(key)]; ok {
		return v, v != nil
	}
	if s.failed != nil {
		return nil, false
	}
	var value []byte
	err := s.tx.QueryRow(s.ctx, selectOne, key).Scan(&value)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		s.failed = err
	}
	return value, err == nil
}

// Set implements tandem.State.
func (s *sqlState) Set(key, value []byte) { s.written[string(key)] = append([]byte{}, value...) }

// Delete implements tandem.State.
func (s *sqlState) Delete(key []byte) { s.written[string(key)] = nil }

// Scan implements tandem.State: it reads the whole range when the loop begins, since a connection can do one thing at a time.
func (s *sqlState) Scan(start, end []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		if start == nil {
			start = []byte{} // bytea has a null of its own
		}
		found := tandem.NewMapState()
		if err := s.readInto(found, start, end); err != nil {
			s.failed = errors.Join(s.failed, err)
			return
		}
		for key, value := range s.written {
			if value == nil {
				found.Delete([]byte(key))
			} else if key >= string(start) && (end == nil || key < string(end)) {
				found.Set([]byte(key), value)
			}
		}
		found.Scan(nil, nil)(yield)
	}
}

func (s *sqlState) readInto(found *tandem.MapState, start, end []byte) error {
	if s.failed != nil {
		return s.failed
	}
	query, args := selectRange, []any{start, end}
	if end == nil {
		query, args = selectFrom, args[:1]
	}
	rows, err := s.tx.Query(s.ctx, query, args...)
	if err != nil {
		return err
	}
	var key, value []byte
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
		found.Set(key, value)
		return nil
	})
	return err
}

// flush sends what was written, in one batch, in key order so that two transactions never wait for each other in a circle.
func (s *sqlState) flush() error {
	if len(s.written) == 0 {
		return nil
	}
	var batch pgx.Batch
	for _, key := range slices.Sorted(maps.Keys(s.written)) {
		if value := s.written[key]; value != nil {
			batch.Queue(upsert, []byte(key), value)
		} else {
			batch.Queue(deleteOne, []byte(key))
		}
	}
	return s.tx.SendBatch(s.ctx, &batch).Close()
}
