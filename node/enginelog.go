package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	cometlog "github.com/cometbft/cometbft/libs/log"
)

// engineLog gives CometBFT's log to slog, and hears its one cry that must not go unheard: when the consensus state machine
// fails, v0.40 logs "CONSENSUS FAILURE!!!" and stops voting, while the process lives on and looks healthy.
//
// What the engine calls "info" is of no interest to an operator and is logged as debug; its errors include many that a
// peer causes by going away, and are logged as warnings. Safe for concurrent use.
type engineLog struct {
	to     *slog.Logger
	failed func(error) // called at once, on the goroutine that failed
}

func (l engineLog) Debug(msg string, kv ...any) { l.log(slog.LevelDebug-4, msg, kv) }
func (l engineLog) Info(msg string, kv ...any)  { l.log(slog.LevelDebug, msg, kv) }
func (l engineLog) Warn(msg string, kv ...any)  { l.log(slog.LevelInfo, msg, kv) }

func (l engineLog) Error(msg string, kv ...any) {
	if strings.HasPrefix(msg, "CONSENSUS FAILURE") {
		l.log(slog.LevelError, msg, kv)
		reason := any("no reason given")
		for i := 0; i+1 < len(kv); i += 2 {
			if kv[i] == "err" {
				reason = kv[i+1]
			}
		}
		l.failed(fmt.Errorf("the consensus engine has failed: %v", reason))
		return
	}
	l.log(slog.LevelWarn, msg, kv)
}

func (l engineLog) With(kv ...any) cometlog.Logger {
	return engineLog{to: l.to.With(kv...), failed: l.failed}
}

// log formats lazily: the engine passes values that are expensive to print and most records are below the level.
func (l engineLog) log(level slog.Level, msg string, kv []any) {
	if l.to.Enabled(context.Background(), level) {
		l.to.Log(context.Background(), level, msg, kv...)
	}
}
