package session

// State is where a session stands in its life. The zero value is no state.
type State uint8

// The states. docs/sessions.md tells a client what to do in each.
const (
	// Open takes steps.
	Open State = iota + 1
	// Committing has been handed to Layer 1; its outcome is not known yet.
	Committing
	// Committed is in a block.
	Committed
	// Conflicted has been overtaken: replayed on the newest state it would answer otherwise.
	Conflicted
	// Abandoned has been given up by its client.
	Abandoned
	// Expired was not committed before a block later than its expires_at.
	Expired
)

var stateNames = [...]string{"", "open", "committing", "committed", "conflicted", "abandoned", "expired"}

// String returns the state's name as it stands in the API: "open", "committing", ...
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return ""
}

// MarshalText returns the name; JSON uses it.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseState is the reverse of String.
func ParseState(name string) (State, bool) {
	for i, n := range stateNames {
		if n == name && n != "" {
			return State(i), true
		}
	}
	return 0, false
}

// Ended reports whether the session takes no more steps and no commit: everything but open and committing.
func (s State) Ended() bool { return s >= Committed }
