// Package archtest holds the tests that keep Tandem's shape: which package may import which, what deterministic
// packages may not touch, package comments, file lengths and banned names. It has no other code. When a test here
// fails, its message gives the reason for the rule; docs/ARCHITECTURE.md has the picture.
package archtest
