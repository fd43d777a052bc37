package ledger

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"tandem"
	"tandem/internal/refusal"
	"tandem/internal/wire"
)

// MaxPage is the largest (and default) number of actors in one answer of the list.
const MaxPage = 100

// maxBodyDepth bounds the nesting of the routes' JSON bodies.
const maxBodyDepth = 4

// Routes are the framework's own service handlers, all below /tandem/v1/actors and /tandem/v1/layer2. exec runs them as it runs a service's:
// as steps of sessions, replayed on every validator, so that registering somebody is agreed and can be proved. What
// they see as state is the framework's part.
//
// Who may do what: an actor with the role "admin" may do everything; an actor may add keys to itself and revoke its
// own keys or itself; nobody changes anything with a delegated key. Reading is open to every signer.
//
//	POST   /tandem/v1/actors                  {"id","organisation","roles","keys","delegates"}  201
//	GET    /tandem/v1/actors?after=ID&limit=N                                                   200
//	GET    /tandem/v1/actors/{id}                                                               200
//	DELETE /tandem/v1/actors/{id}             revokes the actor                                 200
//	POST   /tandem/v1/actors/{id}/keys        {"key","delegate"}                                201
//	DELETE /tandem/v1/actors/{id}/keys/{did}  revokes the key                                   200
//	POST   /tandem/v1/layer2                  {"key","organisation","address","url"}            201; 200 if it was listed
//	GET    /tandem/v1/layer2                                                                    200
//	DELETE /tandem/v1/layer2/{did}            takes the node off the list                       200
func Routes() *tandem.Registry {
	var reg tandem.Registry
	reg.Handle("POST /tandem/v1/actors", route(postActor))
	reg.Handle("GET /tandem/v1/actors", route(listActors))
	reg.Handle("GET /tandem/v1/actors/{id}", route(getActor))
	reg.Handle("DELETE /tandem/v1/actors/{id}", route(revokeActor))
	reg.Handle("POST /tandem/v1/actors/{id}/keys", route(postKey))
	reg.Handle("DELETE /tandem/v1/actors/{id}/keys/{did}", route(revokeKey))
	layer2Routes(&reg)
	return &reg
}

// ActorView is how the routes show an actor.
type ActorView struct {
	ID           string    `json:"id"`
	Organisation string    `json:"organisation"`
	Roles        []string  `json:"roles"`
	Revoked      bool      `json:"revoked"`
	Keys         []KeyView `json:"keys"`
}

// KeyView is how the routes show a key.
type KeyView struct {
	Key      string `json:"key"` // did:key
	Delegate bool   `json:"delegate"`
	Revoked  bool   `json:"revoked"`
}

// ActorList is a page of actors in the order of their ids; Next is the "after" of the next page, absent on the last.
type ActorList struct {
	Actors []ActorView `json:"actors"`
	Next   string      `json:"next,omitempty"`
}

// frameworkState is the framework's part of the state inside a handler: the record functions use full keys, a handler
// sees them without the prefix.
type frameworkState struct{ st tandem.State }

func (f frameworkState) Get(key []byte) ([]byte, bool, error) {
	v, ok := f.st.Get(key[len(Prefix):])
	return v, ok, nil
}

func (f frameworkState) Set(key, value []byte) { f.st.Set(key[len(Prefix):], value) }

// call is what a route works with.
type call struct {
	st    frameworkState
	actor tandem.Actor
	r     *http.Request
}

// route answers with a handler's value as JSON or its refusal as a problem document. Any other error means that the
// framework's records are damaged; the panic becomes a deterministic 500 in exec and the difference to undamaged nodes
// is found where responses are compared.
func route(h func(c call) (status int, v any, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, v, err := h(call{st: frameworkState{tandem.StateOf(r.Context())}, actor: tandem.ActorOf(r.Context()), r: r})
		if err != nil {
			no, ok := refusal.As(err)
			if !ok {
				panic(err)
			}
			no.Write(w)
			return
		}
		body, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(append(body, '\n'))
	})
}

func postActor(c call) (int, any, error) {
	if err := c.admin(); err != nil {
		return 0, nil, err
	}
	var in struct {
		ID           string   `json:"id"`
		Organisation string   `json:"organisation"`
		Roles        []string `json:"roles"`
		Keys         []string `json:"keys"`
		Delegates    []string `json:"delegates"`
	}
	if err := c.body(&in); err != nil {
		return 0, nil, err
	}
	if err := checkActor(in.ID, in.Organisation, in.Roles, len(in.Keys)+len(in.Delegates)); err != nil {
		return 0, nil, err
	}
	if _, ok, err := ActorByID(c.st, in.ID); err != nil {
		return 0, nil, err
	} else if ok {
		return 0, nil, refusal.New(refusal.ActorExists, "the actor %s exists", in.ID)
	}
	var keys []wire.PublicKey
	for _, did := range slices.Concat(in.Keys, in.Delegates) {
		k, err := c.freeKey(did)
		if err != nil {
			return 0, nil, err
		}
		if slices.Contains(keys, k) {
			return 0, nil, refusal.New(refusal.KeyTaken, "the key %s is listed twice", did).With("key", did)
		}
		keys = append(keys, k)
	}
	register(c.st, in.ID, in.Organisation, in.Roles, keys[:len(in.Keys)], keys[len(in.Keys):])
	v, err := c.view(in.ID)
	return http.StatusCreated, v, err
}

func listActors(c call) (int, any, error) {
	q := c.r.URL.Query()
	limit := MaxPage
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > MaxPage {
			return 0, nil, refusal.New(refusal.BadRequest, "limit must be 1 to %d", MaxPage)
		}
		limit = n
	}
	start := []byte(actorPrefix)[len(Prefix):]
	end := prefixEnd(start)
	if after := q.Get("after"); after != "" {
		if err := checkName("after", after, MaxActorID); err != nil {
			return 0, nil, err
		}
		start = append(start, after...)
		start = append(start, 0) // the first key after it
	}
	list := ActorList{Actors: []ActorView{}}
	var ids []string
	for key := range c.st.st.Scan(start, end) {
		if len(ids) == limit {
			list.Next = ids[limit-1]
			break
		}
		ids = append(ids, string(key[len(actorPrefix)-len(Prefix):]))
	}
	for _, id := range ids {
		v, err := c.view(id)
		if err != nil {
			return 0, nil, err
		}
		list.Actors = append(list.Actors, v)
	}
	return http.StatusOK, list, nil
}

func getActor(c call) (int, any, error) {
	v, err := c.view(c.r.PathValue("id"))
	return http.StatusOK, v, err
}

func revokeActor(c call) (int, any, error) {
	id := c.r.PathValue("id")
	if err := c.adminOr(id); err != nil {
		return 0, nil, err
	}
	a, err := c.find(id)
	if err != nil {
		return 0, nil, err
	}
	if !a.Revoked {
		write(c.st, actorKey(id), actorRecord{Organisation: a.Organisation, Roles: a.Roles, Keys: a.Keys, Revoked: true})
	}
	v, err := c.view(id)
	return http.StatusOK, v, err
}

func postKey(c call) (int, any, error) {
	id := c.r.PathValue("id")
	if err := c.adminOr(id); err != nil {
		return 0, nil, err
	}
	var in struct {
		Key      string `json:"key"`
		Delegate bool   `json:"delegate"`
	}
	if err := c.body(&in); err != nil {
		return 0, nil, err
	}
	a, err := c.find(id)
	if err != nil {
		return 0, nil, err
	}
	if a.Revoked {
		return 0, nil, refusal.New(refusal.KeyRevoked, "the actor %s was revoked and takes no more keys", id)
	}
	if len(a.Keys) >= MaxKeys {
		return 0, nil, refusal.New(refusal.BadRequest, "an actor has at most %d keys, revoked ones included", MaxKeys)
	}
	k, err := c.freeKey(in.Key)
	if err != nil {
		return 0, nil, err
	}
	write(c.st, keyKey(k), keyRecord{Actor: id, Delegate: in.Delegate})
	write(c.st, actorKey(id), actorRecord{Organisation: a.Organisation, Roles: a.Roles, Keys: append(slices.Clone(a.Keys), k)})
	v, err := c.view(id)
	return http.StatusCreated, v, err
}

func revokeKey(c call) (int, any, error) {
	id := c.r.PathValue("id")
	if err := c.adminOr(id); err != nil {
		return 0, nil, err
	}
	k, err := wire.ParseDID(c.r.PathValue("did"))
	if err != nil {
		return 0, nil, keyRefusal(c.r.PathValue("did"), err)
	}
	if _, err := c.find(id); err != nil {
		return 0, nil, err
	}
	key, ok, err := KeyOf(c.st, k)
	if err != nil {
		return 0, nil, err
	}
	if !ok || key.Actor != id {
		return 0, nil, refusal.New(refusal.NotFound, "the actor %s has no key %s", id, k.DID())
	}
	if !key.Revoked {
		write(c.st, keyKey(k), keyRecord{Actor: key.Actor, Delegate: key.Delegate, Revoked: true})
	}
	v, err := c.view(id)
	return http.StatusOK, v, err
}

// admin refuses everyone but admins who sign themselves.
func (c call) admin() error {
	if c.actor.Has(RoleDelegate) {
		return refusal.New(refusal.Forbidden, "a delegated key cannot change actors and keys; sign with the actor's own key")
	}
	if !c.actor.Has(RoleAdmin) {
		return refusal.New(refusal.Forbidden, "the actor %q does not have the role %q", c.actor.ID, RoleAdmin)
	}
	return nil
}

// adminOr refuses everyone but admins and the actor itself, with own keys.
func (c call) adminOr(id string) error {
	if c.actor.ID == id && id != "" && !c.actor.Has(RoleDelegate) {
		return nil
	}
	return c.admin()
}

// body reads the request's JSON body strictly.
func (c call) body(into any) error {
	if t, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return refusal.New(refusal.UnsupportedMediaType, "Content-Type is %q", c.r.Header.Get("Content-Type"))
	}
	b, err := io.ReadAll(io.LimitReader(c.r.Body, wire.MaxBody+1))
	if err != nil || len(b) > wire.MaxBody {
		return refusal.New(refusal.BodyTooLarge, "the body is larger than %d bytes", wire.MaxBody)
	}
	return wire.StrictJSON(b, maxBodyDepth, into)
}

// freeKey parses a key and refuses it if it was ever registered.
func (c call) freeKey(did string) (wire.PublicKey, error) {
	k, err := wire.ParseDID(did)
	if err != nil {
		return wire.PublicKey{}, keyRefusal(did, err)
	}
	_, ok, err := KeyOf(c.st, k)
	if err != nil {
		return wire.PublicKey{}, err
	}
	if ok {
		return wire.PublicKey{}, refusal.New(refusal.KeyTaken, "the key %s was registered before", did).With("key", did)
	}
	return k, nil
}

// keyRefusal keeps key-weak; that a text is no key at all is a bad request here, not a bad signature.
func keyRefusal(did string, err error) error {
	if r, ok := refusal.As(err); ok && r.Code != refusal.KeyWeak {
		return refusal.New(refusal.BadRequest, "key: %s", r.Detail)
	} else if ok {
		return r.With("key", did)
	}
	return err
}

func (c call) find(id string) (Actor, error) {
	a, ok, err := ActorByID(c.st, id)
	if err != nil {
		return Actor{}, err
	}
	if !ok {
		return Actor{}, refusal.New(refusal.NotFound, "no actor %q", id)
	}
	return a, nil
}

// view reads an actor and its keys for an answer.
func (c call) view(id string) (ActorView, error) {
	a, err := c.find(id)
	if err != nil {
		return ActorView{}, err
	}
	v := ActorView{ID: a.ID, Organisation: a.Organisation, Roles: a.Roles, Revoked: a.Revoked, Keys: []KeyView{}}
	if v.Roles == nil {
		v.Roles = []string{}
	}
	for _, k := range a.Keys {
		key, ok, err := KeyOf(c.st, k)
		if err != nil {
			return ActorView{}, err
		}
		if !ok {
			return ActorView{}, corrupt(keyKey(k), "is missing, though actor %q has it", id)
		}
		v.Keys = append(v.Keys, KeyView{Key: k.DID(), Delegate: key.Delegate, Revoked: key.Revoked})
	}
	return v, nil
}
