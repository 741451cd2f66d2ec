// Gets a task: `client get HOST:PORT TASK_ID`, with the token and the authority that variables name.
package main

import (
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

const retries = `{"methodConfig": [{
  "name": [{"service": "taskgate.v1.TaskService"}],
  "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]}`

var tryLater = map[string]bool{
	taskgate.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE.String(): true,
	taskgate.ErrorReason_ERROR_REASON_OVERLOADED.String():        true,
	taskgate.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED.String(): true,
}

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
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("TASKGATE_TOKEN"))
	answer, err := taskgate.NewTaskServiceClient(connection).GetTask(ctx, &taskgate.GetTaskRequest{TaskId: taskID})
	if err != nil {
		return err
	}
	output, err := protojson.Marshal(&structpb.Struct{Fields: answer.GetTask().GetOutputData()})
	fmt.Printf("%s\n%s\n", answer.GetTask().GetStatus(), output)
	return err
}

// Says what happened, by the reason in the error's details, and returns an exit code: 75 for an error that may pass.
func explain(err error, taskID string) int {
	info := &errdetails.ErrorInfo{}
	for _, detail := range status.Convert(err).Details() {
		if found, ok := detail.(*errdetails.ErrorInfo); ok {
			info = found
		}
	}
	switch {
	case status.Code(err) == codes.NotFound:
		fmt.Fprintln(os.Stderr, "There is no task", taskID)
	case tryLater[info.GetReason()]:
		fmt.Fprintln(os.Stderr, "Try again later:", info.GetReason())
		return 75
	case status.Code(err) == codes.DeadlineExceeded: // the client's own, which has no reason
		fmt.Fprintln(os.Stderr, "Try again later: no answer in time")
		return 75
	default:
		fmt.Fprintln(os.Stderr, info.GetReason(), err)
	}
	return 1
}

// Prints a line of JSON for each answer that was saved to the folder.
func read(folder string) error {
	paths, err := filepath.Glob(filepath.Join(folder, "*.binpb"))
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
	return err
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
