package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/client"
	"tandem/examples/supplychain"
)

// passphraseVariable may hold the passphrase of a key file, for scripts.
const passphraseVariable = "TANDEM_PASSPHRASE"

func newKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make and show the keys that sign your requests",
		Long: `Keys are Ed25519 keys, named on the ledger by their did:key. A key file is readable by its owner alone (mode 0600) and
lies in the keys folder of the client's home; it may be encrypted with a passphrase (age). An administrator of the
network registers the did:key for an actor; then its holder can act.`,
	}
	cmd.AddCommand(newKeysNewCommand(), newKeysShowCommand(), newKeysListCommand())
	return cmd
}

func newKeysNewCommand() *cobra.Command {
	var place profile
	var encrypted, asJSON bool
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Make a key and print its did:key",
		Long: `Makes a new key, writes it to the file NAME.key in the keys folder and prints its did:key. It never overwrites a key.
With --passphrase the file is encrypted; the passphrase is asked for, or taken from the variable ` + passphraseVariable + `.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := place.keyFile(args[0])
			if err != nil {
				return err
			}
			var passphrase string
			if encrypted {
				if passphrase, err = newPassphrase(cmd); err != nil {
					return err
				}
			}
			key, err := client.GenerateKey()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			if err := key.Save(path, passphrase); err != nil {
				return err
			}
			return printKey(cmd, asJSON, keyLine{Name: args[0], DID: key.DID(), File: path, Encrypted: encrypted})
		},
	}
	place.addHome(cmd)
	cmd.Flags().BoolVar(&encrypted, "passphrase", false, "encrypt the key file with a passphrase")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newKeysShowCommand() *cobra.Command {
	var place profile
	var asJSON, demo bool
	cmd := &cobra.Command{
		Use:   "show NAME|FILE",
		Short: "Print the did:key of a key",
		Long: `Prints the did:key of a key of this home, or of a key file. With --demo NAME is a demo actor such as OPR-001, whose key
is derived from a published seed and known to everyone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := keyRef{File: args[0]}
			if demo {
				ref = keyRef{Demo: args[0]}
			}
			key, err := place.key(cmd, ref)
			if err != nil {
				return err
			}
			return printKey(cmd, asJSON, keyLine{Name: args[0], DID: key.DID()})
		},
	}
	place.addHome(cmd)
	cmd.Flags().BoolVar(&demo, "demo", false, "show a demo actor's published key")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newKeysListCommand() *cobra.Command {
	var place profile
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys of this home",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines, err := place.keys()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), lines)
			}
			for _, l := range lines {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-20s %s\n", l.Name, l.shown()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	place.addHome(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// keyLine is one key in a listing.
type keyLine struct {
	Name      string `json:"name"`
	DID       string `json:"did,omitempty"` // absent where the file is encrypted
	File      string `json:"file,omitempty"`
	Encrypted bool   `json:"encrypted,omitempty"`
	Problem   string `json:"problem,omitempty"`
}

func (l keyLine) shown() string {
	switch {
	case l.Problem != "":
		return l.Problem
	case l.Encrypted && l.DID == "":
		return "(encrypted; tandem keys show " + l.Name + " asks for the passphrase)"
	}
	return l.DID
}

func printKey(cmd *cobra.Command, asJSON bool, l keyLine) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), l)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), l.DID)
	return err
}

// keyRef says which key signs: a demo actor's or one in a file. It is kept with a saved session.
type keyRef struct {
	Demo string `json:"demo,omitempty"`
	File string `json:"file,omitempty"`
}

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// keyFile is where a key of this home lies.
func (p *profile) keyFile(name string) (string, error) {
	if !keyName.MatchString(name) {
		return "", misused("a key's name has 1 to 64 characters of A-Z a-z 0-9 . _ - and begins with a letter or digit, unlike %q", name)
	}
	home, err := p.dir()
	return filepath.Join(home, "keys", name+".key"), err
}

// resolve makes a key's reference independent of the working directory: a name becomes the file of this home.
func (p *profile) resolve(ref keyRef) (keyRef, error) {
	if ref.File == "" {
		return ref, nil
	}
	if !strings.ContainsRune(ref.File, filepath.Separator) && !strings.HasSuffix(ref.File, ".key") {
		path, err := p.keyFile(ref.File)
		return keyRef{File: path}, err
	}
	path, err := filepath.Abs(ref.File)
	return keyRef{File: path}, err
}

// key loads the key that the reference names.
func (p *profile) key(cmd *cobra.Command, ref keyRef) (client.Key, error) {
	if ref.Demo != "" {
		return demoKey(ref.Demo)
	}
	ref, err := p.resolve(ref)
	if err != nil {
		return client.Key{}, err
	}
	key, err := client.LoadKey(ref.File, func() (string, error) { return passphrase(cmd, "Passphrase of "+ref.File+": ") })
	if errors.Is(err, os.ErrNotExist) {
		return key, fmt.Errorf("there is no key file %s; tandem keys new makes one", ref.File)
	}
	return key, err
}

// demoKey is the published key of a demo actor.
func demoKey(id string) (client.Key, error) {
	var known []string
	for _, a := range supplychain.DemoActors() {
		if a.ID == id {
			return client.KeyFromSeed(a.Key.Seed())
		}
		known = append(known, a.ID)
	}
	return client.Key{}, misused("there is no demo actor %q; there are %s", id, strings.Join(known, ", "))
}

// keys lists the key files of this home by name. An encrypted or damaged one is listed all the same.
func (p *profile) keys() ([]keyLine, error) {
	home, err := p.dir()
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(home, "keys", "*.key"))
	if err != nil {
		return nil, err
	}
	slices.Sort(found)
	lines := []keyLine{}
	for _, path := range found {
		l := keyLine{Name: strings.TrimSuffix(filepath.Base(path), ".key"), File: path}
		key, err := client.LoadKey(path, func() (string, error) { return "", nil })
		switch {
		case errors.Is(err, client.ErrPassphrase):
			l.Encrypted = true
		case err != nil:
			l.Problem = err.Error()
		default:
			l.DID = key.DID()
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// passphrase takes the passphrase from the environment, or asks for it on the terminal without showing it.
func passphrase(cmd *cobra.Command, prompt string) (string, error) {
	if word, ok := os.LookupEnv(passphraseVariable); ok {
		return word, nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", fmt.Errorf("the key is encrypted: set %s, or run this on a terminal", passphraseVariable)
	}
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	word, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(cmd.ErrOrStderr())
	return string(word), err
}

// newPassphrase asks for a passphrase twice, or takes it from the environment.
func newPassphrase(cmd *cobra.Command) (string, error) {
	word, err := passphrase(cmd, "New passphrase: ")
	if err != nil {
		return "", err
	}
	if _, fromEnvironment := os.LookupEnv(passphraseVariable); !fromEnvironment {
		again, err := passphrase(cmd, "Once more: ")
		if err != nil {
			return "", err
		}
		if again != word {
			return "", errors.New("the two passphrases differ")
		}
	}
	if word == "" {
		return "", errors.New("the passphrase is empty; leave out --passphrase for a key file that is not encrypted")
	}
	return word, nil
}
