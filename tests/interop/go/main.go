// gRPC's Go client against one address. Prints what it got as one JSON object: see ../test_other_languages.py.
//
//	client <host:port> <descriptor set> <known task> <unknown task> <large task>
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	service       = "taskgate.v1.TaskService"
	cancellations = 10_000
)

var (
	connection *grpc.ClientConn
	files      *protoregistry.Files
)

func main() {
	target, descriptors, known, unknown, large := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	files = load(descriptors)
	connect(target)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"document":   document(known),
		"compressed": document(known, grpc.UseCompressor(gzip.Name)),
		"task":       task(known),
		"notFound":   notFound(unknown),
		"requestId":  requestID(known),
		"large":      len(text(large)),
		"missing":    code(connection.Invoke(soon(5), "/"+service+"/NoSuchMethod", request(known), &httpbody.HttpBody{})),
		"watch":      watch(),
		"together":   together(known),
		"cancelled":  cancelled(known),
		"afterwards": afterwards(target, known),
	}))
}

func connect(target string) {
	var err error
	connection, err = grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	check(err)
}

// On a new connection: Envoy may be about to close one that had too many calls cancelled.
func afterwards(target, known string) any {
	check(connection.Close())
	connect(target)
	return document(known)
}

func load(path string) *protoregistry.Files {
	content, err := os.ReadFile(path)
	check(err)
	var set descriptorpb.FileDescriptorSet
	check(proto.Unmarshal(content, &set))
	found, err := protodesc.NewFiles(&set)
	check(err)
	return found
}

func message(name string) *dynamicpb.Message {
	descriptor, err := files.FindDescriptorByName(protoreflect.FullName(name))
	check(err)
	return dynamicpb.NewMessage(descriptor.(protoreflect.MessageDescriptor))
}

func field(from protoreflect.Message, name string) protoreflect.Value {
	return from.Get(from.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

// GetTaskJsonRequest and GetTaskRequest look the same on the wire.
func request(taskID string) proto.Message {
	made := message("taskgate.v1.GetTaskJsonRequest")
	made.Set(made.Descriptor().Fields().ByName("task_id"), protoreflect.ValueOfString(taskID))
	return made
}

func ask(ctx context.Context, taskID string, options ...grpc.CallOption) (*httpbody.HttpBody, error) {
	var body httpbody.HttpBody
	err := connection.Invoke(ctx, "/"+service+"/GetTaskJson", request(taskID), &body, options...)
	return &body, err
}

func text(taskID string, options ...grpc.CallOption) []byte {
	body, err := ask(soon(30), taskID, options...)
	check(err)
	return body.Data
}

func document(taskID string, options ...grpc.CallOption) any {
	return map[string]any{"code": 0, "text": string(text(taskID, options...))}
}

func task(taskID string) any {
	response := message("taskgate.v1.GetTaskResponse")
	err := connection.Invoke(soon(30), "/"+service+"/GetTask", request(taskID), response)
	found := field(response, "task").Message()
	state := found.Descriptor().Fields().ByName("status")
	name := state.Enum().Values().ByNumber(found.Get(state).Enum()).Name()
	return map[string]any{"code": code(err), "id": field(found, "task_id").String(), "status": string(name)}
}

func notFound(taskID string) any {
	_, err := ask(soon(30), taskID)
	refused := status.Convert(err)
	details, problem := proto.Marshal(refused.Proto())
	check(problem)
	return map[string]any{
		"code": refused.Code(), "message": refused.Message(), "details": base64.StdEncoding.EncodeToString(details),
	}
}

func requestID(taskID string) string {
	var trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(soon(30), "x-request-id", "interop-1")
	_, err := ask(ctx, taskID, grpc.Trailer(&trailer))
	check(err)
	return trailer.Get("x-request-id")[0]
}

func watch() any {
	messages := []string{}
	stream, err := grpc_health_v1.NewHealthClient(connection).Watch(soon(0.5), &grpc_health_v1.HealthCheckRequest{})
	for err == nil {
		var answer *grpc_health_v1.HealthCheckResponse
		if answer, err = stream.Recv(); err == nil {
			content, problem := proto.Marshal(answer)
			check(problem)
			messages = append(messages, hex.EncodeToString(content))
		}
	}
	return map[string]any{"code": code(err), "messages": messages}
}

func together(taskID string) int {
	var all sync.WaitGroup
	var lock sync.Mutex
	answered := 0
	for range 500 {
		all.Go(func() {
			if _, err := ask(soon(30), taskID); err == nil {
				lock.Lock()
				defer lock.Unlock()
				answered++
			}
		})
	}
	all.Wait()
	return answered
}

// Each call is cancelled within a millisecond: before, while, or after it is answered.
func cancelled(taskID string) map[codes.Code]int {
	var all sync.WaitGroup
	var lock sync.Mutex
	found := map[codes.Code]int{}
	for worker := range 50 {
		all.Go(func() {
			for number := range cancellations / 50 {
				ctx, cancel := context.WithCancel(soon(30))
				time.AfterFunc(time.Duration((worker*number)%1000)*time.Microsecond, cancel)
				_, err := ask(ctx, taskID)
				cancel()
				lock.Lock()
				found[code(err)]++
				lock.Unlock()
			}
		})
	}
	all.Wait()
	return found
}

func code(err error) codes.Code { return status.Code(err) }

func soon(seconds float64) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds*float64(time.Second)))
	time.AfterFunc(time.Minute, cancel)
	return ctx
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
