package bench

import (
	"context"
	"fmt"
	"time"

	"tandem/client"
)

// CarryOneLayer carries a new package through the same steps as Carry, but each step is a session of its own that is
// committed on Layer 1 before the next begins: request, compute, consensus, log, response, as DeWS does it, with the same client,
// the same signatures and the same network. A sample's latency is all that the user waits for: opening the one-step session, the step,
// and its commit. There is no "open" and no "commit" of the whole, so that it is five operations against seven: the comparison
// leans towards one layer.
func CarryOneLayer(ctx context.Context, c *client.Client, reference string, note func(Sample)) error {
	w := stopwatch{time.Now(), note}
	return task(reference, func(name, target string, body []byte) (answer []byte, err error) {
		err = w.time(name, L1, func(a *Sample) error {
			got, outcome, session, err := c.Do(ctx, "POST", target, "application/json", body)
			if err != nil {
				return err
			}
			if err := recorded(got); err != nil {
				return err
			}
			answer = got.Body
			a.Height, a.Endorsements, a.Of = outcome.Height, got.Endorsed, got.Of
			a.Detail = fmt.Sprintf("%d, height %d, transaction %s", got.Status, outcome.Height, outcome.TransactionHash)
			return committed(session, outcome)
		})
		return answer, err
	})
}
