package supplychain

import "slices"

// Status says where a package stands.
type Status string

// The statuses of a package. A package that failed its quality check goes no further.
const (
	StatusRegistered Status = "registered"
	StatusScanned    Status = "scanned"
	StatusValidated  Status = "validated"
	StatusPassed     Status = "passed"
	StatusFailed     Status = "failed"
	StatusLabelled   Status = "labelled"
)

// Action is a step of the workflow.
type Action string

// The steps of the workflow, in order.
const (
	ActionRegister     Action = "register"
	ActionScan         Action = "scan"
	ActionValidate     Action = "validate"
	ActionQualityCheck Action = "quality-check"
	ActionLabel        Action = "label"
)

// workflow is the table of legal transitions: the status an action needs and the statuses it may lead to. Registering
// makes the package and so needs none.
var workflow = map[Action]struct {
	from Status
	to   []Status
}{
	ActionRegister:     {"", []Status{StatusRegistered}},
	ActionScan:         {StatusRegistered, []Status{StatusScanned}},
	ActionValidate:     {StatusScanned, []Status{StatusValidated}},
	ActionQualityCheck: {StatusValidated, []Status{StatusPassed, StatusFailed}},
	ActionLabel:        {StatusPassed, []Status{StatusLabelled}},
}

// next names the action a package with this status waits for; it is part of the reason given for a refusal.
func next(s Status) string {
	switch s {
	case StatusRegistered:
		return "it must be scanned first"
	case StatusScanned:
		return "its supplier's signature must be validated first"
	case StatusValidated:
		return "it must pass a quality check first"
	case StatusPassed:
		return "it waits for its label"
	case StatusFailed:
		return "it failed its quality check and goes no further"
	case StatusLabelled:
		return "it is labelled and done"
	}
	return ""
}

// allow refuses an action that the package's status does not admit.
func allow(a Action, p Package) error {
	if workflow[a].from == p.Status {
		return nil
	}
	code := "wrong-step"
	if p.Status == StatusFailed {
		code = "quality-check-failed"
	}
	problem := refuse(code, "%s is refused: package %s is %s, %s", a, p.ID, p.Status, next(p.Status))
	problem.PackageID, problem.PackageStatus = p.ID, string(p.Status)
	return problem
}

// mustLead panics if the table does not let the action lead from one status to the other.
func mustLead(a Action, from, to Status) {
	rule, ok := workflow[a]
	if !ok || rule.from != from || !slices.Contains(rule.to, to) {
		panic("supplychain: " + string(a) + " cannot lead from " + string(from) + " to " + string(to))
	}
}
