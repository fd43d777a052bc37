# Names for one-line go commands; nothing here is needed to build, run or test.
.PHONY: run test check bench
run:
	go run ./cmd/tandem dev
test:
	go test ./...
check:
	.ci/run
bench:
	go test -run '^$$' -bench . ./...
