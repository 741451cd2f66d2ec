// Client gets a task: `client get HOST:PORT TASK_ID`, with the token and the authority that variables name.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/wrapperspb" // lets JSON show a StringValue that is in an Any

	taskgate "taskgate.internal/go/taskgate/v1"
)

// retries is a service config of gRPC.
const retries = `{"methodConfig": [{
  "name": [{"service": "taskgate.v1.TaskService"}],
  "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]}`

// tryLater has the reasons of errors that may pass.
var tryLater = map[string]bool{
	taskgate.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE.String(): true,
	taskgate.ErrorReason_ERROR_REASON_OVERLOADED.String():        true,
	taskgate.ErrorReason_ERROR_REASON_RATE_LIMITED.String():      true,
	taskgate.ErrorReason_ERROR_REASON_TOO_MANY_ATTEMPTS.String(): true,
	taskgate.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED.String(): true,
}

// get prints the task's status and output.
func get(target, taskID string) error {
	transport := insecure.NewCredentials()
	if authority := os.Getenv("TASKGATE_CA"); authority != "" {
		tls, err := credentials.NewClientTLSFromFile(authority, "")
		if err != nil {
			return err
		}
		transport = tls
	}
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(retries), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
	if err != nil {
		return err
	}
	defer connection.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if token := os.Getenv("TASKGATE_TOKEN"); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	answer, err := taskgate.NewTaskServiceClient(connection).GetTask(ctx, &taskgate.GetTaskRequest{TaskId: taskID})
	if err != nil {
		return err
	}
	output, err := protojson.Marshal(&structpb.Struct{Fields: answer.GetTask().GetOutputData()})
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", answer.GetTask().GetStatus(), output)
	return nil
}

// explain says what happened, by the reason in the error's details. The exit code is 75 for an error that may pass.
func explain(err error, taskID string) int {
	reason, problem := reasonOf(err), status.Convert(err)
	var later string
	switch {
	case problem.Code() == codes.NotFound:
		fmt.Fprintln(os.Stderr, "There is no task", taskID)
		return 1
	case tryLater[reason]:
		later = reason
	case problem.Code() == codes.Unavailable: // no connection, or a proxy without a server: it has no reason
		later = "the server is unavailable: " + problem.Message()
	case problem.Code() == codes.DeadlineExceeded: // the client's own, which has no reason
		later = "no answer in time"
	default:
		fmt.Fprintf(os.Stderr, "%s: %s\n", cmp.Or(reason, problem.Code().String()), problem.Message())
		return 1
	}
	fmt.Fprintln(os.Stderr, "Try again later:", later)
	return 75
}

// reasonOf returns taskgate's reason for an error, or "" if it has none.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "taskgate" {
			return info.GetReason()
		}
	}
	return ""
}

// read prints a line of JSON for each answer that was saved to the folder.
func read(folder string) error {
	paths, err := filepath.Glob(filepath.Join(folder, "*.binpb"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		saved, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		answer := &taskgate.GetTaskResponse{}
		if err := proto.Unmarshal(saved, answer); err != nil {
			return err
		}
		task, err := protojson.Marshal(answer.GetTask())
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".binpb")
		line, err := json.Marshal(map[string]any{"name": name, "task": json.RawMessage(task)})
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

func main() {
	switch arguments := os.Args[1:]; {
	case len(arguments) == 3 && arguments[0] == "get":
		if err := get(arguments[1], arguments[2]); err != nil {
			os.Exit(explain(err, arguments[2]))
		}
	case len(arguments) == 2 && arguments[0] == "read":
		if err := read(arguments[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: client get HOST:PORT TASK_ID | read FOLDER")
		os.Exit(2)
	}
}
