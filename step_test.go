package tandem

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestStepContext(t *testing.T) {
	s := &Step{
		State: NewMapState(), Now: time.UnixMilli(5).UTC(),
		Actor: Actor{ID: "A", Roles: []string{"admin", "operator"}}, Position: Position{"abc", 2},
	}
	ctx := WithStep(context.Background(), s)
	if StateOf(ctx) != s.State || !Now(ctx).Equal(s.Now) || ActorOf(ctx).ID != "A" || SessionOf(ctx) != s.Position {
		t.Error("the context does not give back what the step holds")
	}
	if !ActorOf(ctx).Has("admin") || ActorOf(ctx).Has("courier") {
		t.Error("Has")
	}
}

// Without a step each accessor says what to do.
func TestNoStep(t *testing.T) {
	ctx := context.Background()
	for name, call := range map[string]func(){
		"StateOf":   func() { StateOf(ctx) },
		"Now":       func() { Now(ctx) },
		"ActorOf":   func() { ActorOf(ctx) },
		"SessionOf": func() { SessionOf(ctx) },
		"NewID":     func() { NewID(ctx, "") },
	} {
		if got := panicText(call); !strings.Contains(got, "tandem."+name) || !strings.Contains(got, "r.Context()") {
			t.Errorf("%s: panic %q does not teach", name, got)
		}
	}
	if got := panicText(func() { StateOf(WithStep(ctx, &Step{})) }); !strings.Contains(got, "NewMapState") {
		t.Errorf("a step without state: panic %q does not teach", got)
	}
}

// NewID is a function of session, sequence and count, and differs if any of them does.
func TestNewID(t *testing.T) {
	form := regexp.MustCompile(`^PKG-[a-z2-7]{26}$`)
	rapid.Check(t, func(t *rapid.T) {
		seen := map[string]Position{}
		positions := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Position {
			return Position{rapid.String().Draw(t, "session"), rapid.Uint64().Draw(t, "sequence")}
		}), 1, 8, rapid.ID[Position]).Draw(t, "positions")
		for _, p := range positions {
			a, b := WithStep(context.Background(), &Step{Position: p}), WithStep(context.Background(), &Step{Position: p})
			for range 3 {
				id := NewID(a, "PKG-")
				if !form.MatchString(id) {
					t.Fatalf("id %q", id)
				}
				if again := NewID(b, "PKG-"); again != id {
					t.Fatalf("a replay gives %s, not %s", again, id)
				}
				if other, dup := seen[id]; dup {
					t.Fatalf("%v and %v share the id %s", p, other, id)
				}
				seen[id] = p
			}
		}
	})
}

// The ids of recorded sessions must not change under them: a golden value.
func TestNewIDIsStable(t *testing.T) {
	ctx := WithStep(context.Background(), &Step{Position: Position{"aaaqeayeaudaocajbifqydiob4", 1}})
	if got := NewID(ctx, "X-"); got != "X-i4wsjtr57xblnxccspwj5bovf4" {
		t.Errorf("NewID is %s", got)
	}
}
