package node

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tandem/internal/wire"
)

// keyFile is a private key on a node's disk: JSON, mode 0600. A node has to start by itself, so its keys are not under a
// passphrase; who can read the file is the node.
type keyFile struct {
	DID  string `json:"did"`  // did:key of the public half, for people; checked when read
	Seed string `json:"seed"` // base64 of the 32-byte Ed25519 seed
}

// WriteKey writes key to the file name, which must not exist.
func WriteKey(name string, key ed25519.PrivateKey) error {
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("node: %s exists: a key is never overwritten", name)
	}
	text, err := json.MarshalIndent(keyFile{DID: publicKey(key).DID(), Seed: base64.StdEncoding.EncodeToString(key.Seed())}, "", "  ")
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := writeFile(name, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

// ReadKey reads a file that WriteKey has written.
func ReadKey(name string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("node: key: %w", err)
	}
	var f keyFile
	if err := wire.StrictJSON(text, 2, &f); err != nil {
		return nil, fmt.Errorf("node: key %s: %w", name, err)
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(f.Seed)
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("node: key %s: the seed is not %d bytes in base64", name, ed25519.SeedSize)
	}
	key := ed25519.NewKeyFromSeed(seed)
	if did := publicKey(key).DID(); did != f.DID {
		return nil, fmt.Errorf("node: key %s: it says %s, the seed gives %s", name, f.DID, did)
	}
	return key, nil
}

func publicKey(key ed25519.PrivateKey) wire.PublicKey {
	return wire.PublicKey(key.Public().(ed25519.PublicKey))
}

// loadCustody reads the keys that actors have delegated to this node: one file <actor id>.json each.
func (c Config) loadCustody() (map[string]ed25519.PrivateKey, error) {
	if c.Layer2.Custody == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(c.path(c.Layer2.Custody), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("custody: %w", err)
	}
	keys := make(map[string]ed25519.PrivateKey)
	for _, file := range files {
		key, err := ReadKey(file)
		if err != nil {
			return nil, err
		}
		keys[strings.TrimSuffix(filepath.Base(file), ".json")] = key
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("layer2.custody: %s holds no key file <actor id>.json", c.path(c.Layer2.Custody))
	}
	if actor := c.Layer2.DefaultActor; actor != "" && keys[actor] == nil {
		return nil, fmt.Errorf("layer2.default_actor: %s has no key in %s", actor, c.path(c.Layer2.Custody))
	}
	return keys, nil
}
