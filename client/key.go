package client

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"tandem/internal/wire"
)

// Key is an actor's Ed25519 key pair. Printing one shows its public half only. The zero Key is no key.
type Key struct{ private ed25519.PrivateKey }

// GenerateKey makes a new key from the system's randomness.
func GenerateKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return Key{private}, err
}

// KeyFromSeed makes the key of a 32-byte seed (RFC 8032's private key).
func KeyFromSeed(seed []byte) (Key, error) {
	if len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("a seed has %d bytes, not %d", ed25519.SeedSize, len(seed))
	}
	return Key{ed25519.NewKeyFromSeed(seed)}, nil
}

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return len(k.private) == 0 }

// DID is the public half as did:key, the name under which the ledger knows it; "" for the zero Key.
func (k Key) DID() string {
	if k.IsZero() {
		return ""
	}
	return wire.PublicKeyOf(k.private).DID()
}

// Private is the key for crypto/ed25519. The caller keeps it secret.
func (k Key) Private() ed25519.PrivateKey { return k.private }

// String is DID.
func (k Key) String() string { return k.DID() }

// GoString keeps %#v from showing the secret.
func (k Key) GoString() string { return "client.Key(" + k.DID() + ")" }

// Format keeps every verb of fmt from showing the secret.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.DID()) }

// LogValue keeps the secret out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.DID()) }

// MarshalText keeps the secret out of JSON: it gives DID.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.DID()), nil }

// keyFileHead is the first line of a key file.
const keyFileHead = "# Tandem key. Whoever has the seed can act as this key's actor: keep it secret."

// maxKeyFile bounds a key file, encrypted or not, in bytes.
const maxKeyFile = 16 << 10

// ErrPassphrase says that a key file is encrypted and the passphrase is wrong or missing.
var ErrPassphrase = errors.New("wrong or missing passphrase")

// Save writes the key to a new file that only its owner can read (mode 0600). It never overwrites a file. With a passphrase the
// file is encrypted with age (scrypt), so that `age -d` reads it too. The file is on disk when Save returns.
//
//	# Tandem key. ...
//	did:key:z6Mk...
//	seed:BASE64 (32 bytes)
func (k Key) Save(path, passphrase string) error {
	if k.IsZero() {
		return errors.New("no key to save")
	}
	text := []byte(keyFileHead + "\n" + k.DID() + "\nseed:" + base64.StdEncoding.EncodeToString(k.private.Seed()) + "\n")
	if passphrase != "" {
		var err error
		if text, err = encrypt(text, passphrase, scryptWork); err != nil {
			return fmt.Errorf("encrypting the key: %w", err)
		}
	}
	return writeNew(path, text)
}

// scryptWork is the work factor of a passphrase: 2^18, about a second (age's default).
const scryptWork = 18

// encrypt seals text for whoever knows the passphrase.
func encrypt(text []byte, passphrase string, work int) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(work)
	var sealed bytes.Buffer
	armored := armor.NewWriter(&sealed)
	w, err := age.Encrypt(armored, recipient)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil { // closing writes the rest
		return nil, err
	}
	return sealed.Bytes(), nil
}

// writeNew creates path with mode 0600 and makes file and name durable. A crash leaves no file, or a whole one, or one
// that LoadKey refuses.
func writeNew(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// LoadKey reads a file that Save wrote. It refuses a file that others than its owner can read or write. passphrase is
// asked only if the file is encrypted; it may be nil.
func LoadKey(path string, passphrase func() (string, error)) (Key, error) {
	text, err := readPrivate(path)
	if err != nil {
		return Key{}, err
	}
	if bytes.HasPrefix(text, []byte(armor.Header)) {
		if text, err = decrypt(text, passphrase); err != nil {
			return Key{}, fmt.Errorf("key file %s: %w", path, err)
		}
	}
	k, err := parseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

// readPrivate reads a file and insists that it is private.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	about, err := f.Stat() // of what was opened, not of what the name means by now
	switch {
	case err != nil:
		return nil, err
	case !about.Mode().IsRegular():
		return nil, fmt.Errorf("key file %s is no regular file", path)
	case runtime.GOOS != "windows" && about.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("key file %s has mode %04o: others than its owner can use it; run chmod 600 and consider the key known to them",
			path, about.Mode().Perm()&fs.ModePerm)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("key file %s has more than %d bytes", path, maxKeyFile)
	}
	return text, err
}

// decrypt opens an encrypted key file.
func decrypt(sealed []byte, passphrase func() (string, error)) ([]byte, error) {
	if passphrase == nil {
		return nil, ErrPassphrase
	}
	word, err := passphrase()
	if err != nil {
		return nil, err
	}
	if word == "" {
		return nil, ErrPassphrase
	}
	identity, err := age.NewScryptIdentity(word)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identity)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, ErrPassphrase
	case err != nil:
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxKeyFile))
}

// parseKey reads the text of a key file: comments and blank lines aside, the did:key and the seed it belongs to.
func parseKey(text []byte) (Key, error) {
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 2 {
		return Key{}, fmt.Errorf("%d lines that are no comments; there must be two, the did:key and the seed", len(lines))
	}
	encoded, ok := strings.CutPrefix(lines[1], "seed:")
	seed, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		return Key{}, errors.New("the second line is not seed: and 32 bytes in base64")
	}
	k, err := KeyFromSeed(seed)
	if err != nil {
		return Key{}, err
	}
	if k.DID() != lines[0] {
		return Key{}, errors.New("the seed does not belong to the did:key before it")
	}
	return k, nil
}
