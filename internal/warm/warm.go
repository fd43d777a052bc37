package warm

import (
	_ "filippo.io/age"
	_ "filippo.io/edwards25519"
	_ "github.com/celestiaorg/smt"
	_ "github.com/cockroachdb/pebble/v2"
	_ "github.com/cometbft/cometbft/node"
	_ "github.com/cosmos/ics23/go"
	_ "github.com/danielgtaylor/huma/v2/adapters/humago"
	_ "github.com/dunglas/httpsfv"
	_ "github.com/fxamacker/cbor/v2"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/mr-tron/base58"
	_ "github.com/pelletier/go-toml/v2"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/schollz/progressbar/v3"
	_ "github.com/spf13/cobra"
	_ "github.com/yaronf/httpsign"
	_ "go.uber.org/goleak"
	_ "google.golang.org/grpc"
	_ "pgregory.net/rapid"
)
