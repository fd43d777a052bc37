package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeyFile: a key comes back from its file, which only its owner can read and which is never overwritten.
func TestKeyFile(t *testing.T) {
	k, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := k.Save(path, ""); err != nil {
		t.Fatal(err)
	}
	about, err := os.Stat(path)
	if err != nil || about.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", about.Mode(), err)
	}
	got, err := LoadKey(path, nil)
	if err != nil || got.DID() != k.DID() || !got.Private().Equal(k.Private()) {
		t.Errorf("%v %v", got, err)
	}
	if err := testKey(3).Save(path, ""); !errors.Is(err, os.ErrExist) {
		t.Errorf("the file was overwritten: %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if (Key{}).Save(filepath.Join(t.TempDir(), "none"), "") == nil {
		t.Error("no key was saved as one")
	}
}

// TestKeyPassphrase: an encrypted key needs its passphrase.
func TestKeyPassphrase(t *testing.T) {
	k := testKey(5)
	path := filepath.Join(t.TempDir(), "key")
	if err := k.Save(path, "correct horse"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(text), "-----BEGIN AGE ENCRYPTED FILE-----") {
		t.Fatalf("%.60s %v", text, err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := k.Save(plain, ""); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(plain); err != nil {
		t.Fatal(err)
	}
	if text, err = encrypt(text, "correct horse", 10); err != nil { // the same, cheaper to open
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	say := func(word string) func() (string, error) { return func() (string, error) { return word, nil } }
	if got, err := LoadKey(path, say("correct horse")); err != nil || got.DID() != k.DID() {
		t.Errorf("%v %v", got, err)
	}
	for _, ask := range []func() (string, error){nil, say(""), say("wrong")} {
		if _, err := LoadKey(path, ask); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%v", err)
		}
	}
}

// TestKeyFilesThatAreNone: half files, other files, a seed of another key.
func TestKeyFilesThatAreNone(t *testing.T) {
	a, b := testKey(1), testKey(2)
	dir := t.TempDir()
	if err := a.Save(filepath.Join(dir, "a"), ""); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty": "", "half": string(text[:len(text)/2]), "no seed": a.DID() + "\n", "of another": strings.Replace(string(text), a.DID(), b.DID(), 1),
		"three lines": string(text) + "more\n", "huge": strings.Repeat("#", maxKeyFile+1), "half age": "-----BEGIN AGE ENCRYPTED FILE-----\nabc\n",
		"short seed": a.DID() + "\nseed:AAAA\n",
	} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path, func() (string, error) { return "x", nil }); err == nil {
			t.Errorf("%s: taken for a key", name)
		}
	}
	if _, err := LoadKey(dir, nil); err == nil {
		t.Error("a directory was taken for a key")
	}
}

// TestKeyIsNotPrinted: no way of printing a key shows its secret.
func TestKeyIsNotPrinted(t *testing.T) {
	k := testKey(42)
	asJSON, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x %s %d", k, k, k, k, k), string(asJSON), k.LogValue().String()} {
		if !strings.Contains(text, k.DID()) || strings.Contains(text, fmt.Sprintf("%x", k.Private().Seed())) || strings.Contains(text, "42 0 0") {
			t.Errorf("printed as %s", text)
		}
	}
}

// FuzzParseKey: no text makes parseKey panic, and what it takes it can write again.
func FuzzParseKey(f *testing.F) {
	f.Add([]byte("# x\ndid:key:z6Mk\nseed:AAAA\n"))
	f.Add([]byte(testKey(1).DID() + "\nseed:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := parseKey(text); err == nil && !strings.Contains(string(text), k.DID()) {
			t.Error("a key that is not in the file")
		}
	})
}
