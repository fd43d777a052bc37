package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"tandem/client"
)

// A session with two steps, committed and proved. The three kinds of outcome are told apart.
func Example() {
	ctx := context.Background()
	genesis, err := os.ReadFile("genesis.json") // from someone trusted, once
	if err != nil {
		return
	}
	key, err := client.LoadKey("operator.key", nil)
	if err != nil {
		return
	}
	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:8080", "http://127.0.0.1:8081"}, Key: key, Genesis: genesis})
	if err != nil {
		return
	}
	s, err := c.Open(ctx)
	if err != nil {
		return
	}
	answer, err := s.Call(ctx, "POST", "/packages/PKG-1/scan", "", []byte("{}"))
	var problem *client.Problem
	var lie *client.AnswerError
	switch {
	case errors.As(err, &problem) && problem.Conflict():
		fmt.Println("another session came first:", problem.Fields["winner"])
	case errors.As(err, &problem):
		fmt.Println("refused:", problem.Code, problem.Remedy)
	case errors.As(err, &lie):
		fmt.Println("a node was caught:", lie.URL, lie.Field)
	case err != nil:
		fmt.Println("unknown; the same call again is safe:", err)
	case !answer.Recorded:
		fmt.Println("the service said no:", answer.Status)
	}
	outcome, err := s.Commit(ctx)
	if err != nil {
		return
	}
	_, proof, err := s.Receipt(ctx, nil)
	if err != nil {
		return
	}
	fmt.Println("in block", outcome.Height, "as", outcome.TransactionHash, "signed by", proof.Signers, "validators")
}
