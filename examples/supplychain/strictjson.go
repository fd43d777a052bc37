package supplychain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a body's objects and arrays may be nested. The deepest body of this service needs 3.
const maxDepth = 16

// strictJSON says what is wrong with a body, or "". Beyond the grammar it refuses what encoding/json lets through and
// two readers could understand differently: invalid UTF-8, a key twice in an object (also in other letter case, since
// encoding/json matches field names without it), more than one value, and nesting deeper than maxDepth.
func strictJSON(body []byte) string {
	if !utf8.Valid(body) {
		return "the body is not valid UTF-8"
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		return "the body is not JSON: " + clip(err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	why, err := strictValue(d, 1)
	if err != nil {
		return "the body is not JSON: " + clip(err.Error())
	}
	return why
}

// strictValue walks one value of a body that is known to be JSON.
func strictValue(d *json.Decoder, depth int) (why string, err error) {
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return "", nil
	}
	if depth > maxDepth {
		return fmt.Sprintf("the body is nested deeper than %d", maxDepth), nil
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return "", err
			}
			key, _ := t.(string)
			if seen[fold(key)] {
				return fmt.Sprintf("the body has the key %q twice in one object", clip(key)), nil
			}
			seen[fold(key)] = true
		}
		if why, err := strictValue(d, depth+1); why != "" || err != nil {
			return why, err
		}
	}
	_, err = d.Token()
	return "", err
}

// fold maps strings that are equal under strings.EqualFold to one string.
func fold(s string) string { return strings.ToLower(strings.ToUpper(s)) }
