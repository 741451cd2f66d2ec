// Command client uses the released SDK: it makes a client, then asks for each task that a line of standard input names. It
// prints a line of JSON for each: what the SDK returned, or how it failed. The first line says that there is a client.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/conductor-sdk/conductor-go/sdk/client"
	"github.com/conductor-sdk/conductor-go/sdk/model"
	"github.com/conductor-sdk/conductor-go/sdk/settings"
)

type result struct {
	Task  *model.Task `json:"task,omitempty"`
	Error string      `json:"error,omitempty"`
}

func main() {
	keys := settings.NewAuthenticationSettings(os.Args[2], os.Args[3]) // the SDK does without keys if they are empty
	tasks := client.NewTaskClient(client.NewAPIClient(keys, settings.NewHttpSettings(os.Args[1])))
	output := json.NewEncoder(os.Stdout)
	answer := func(value result) {
		if err := output.Encode(value); err != nil {
			log.Fatal(err)
		}
	}
	answer(result{})
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		task, _, err := tasks.GetTask(context.Background(), input.Text())
		if err != nil {
			answer(result{Error: err.Error()})
		} else {
			answer(result{Task: &task})
		}
	}
}
