// The peer that a Go team would build: a gRPC server for taskgate.v1.TaskService over the same SQLite file, and
// grpc-gateway over it for GET /api/tasks/{task_id}, stubs and gateway generated from our protos.
//
// It answers what the benchmark asks, as well as the usual libraries let it: one prepared statement on read-only
// connections, documents handed on as they are stored, typed tasks by protojson. What it leaves out, and taskgate does
// not, makes it faster or is not in the documents that are measured:
//
//   - Task IDs are not checked, documents are not checked to be JSON, calls are not logged.
//   - Where a document says nothing, only WorkflowTask.retry_count gets Conductor's default, and an explicit 0 gets it too.
//   - Tasks with cases, forks or Any messages are refused: their REST JSON is not protobuf's.
//
// REST is to be had twice: at / through a connection to the gRPC server, as grpc-gateway is meant to be used, and under
// /inline by calls within the process, which is faster and bypasses all that a gRPC server does.
//
// Arguments: the SQLite file, HOST:PORT for HTTP, HOST:PORT for gRPC.
package main

import (
	"context"
	"log"
	"math"
	"net"
	"net/http"
	"os"

	gateway "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "taskgate.invalid/bench/taskgatev1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: peer DATABASE HTTP_ADDRESS GRPC_ADDRESS")
	}
	if err := serve(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

// serve runs until one of the two servers fails.
func serve(database, httpAddress, grpcAddress string) error {
	tasks, err := openStore(database)
	if err != nil {
		return err
	}
	tasksServer := &server{tasks: tasks}
	listener, err := net.Listen("tcp", grpcAddress)
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer()
	pb.RegisterTaskServiceServer(grpcServer, tasksServer)
	handler, err := restHandler(tasksServer, grpcAddress)
	if err != nil {
		return err
	}
	failed := make(chan error)
	go func() { failed <- grpcServer.Serve(listener) }()
	go func() { failed <- http.ListenAndServe(httpAddress, handler) }()
	return <-failed
}

// restHandler is grpc-gateway twice: over a gRPC connection, and over plain calls.
func restHandler(tasksServer *server, grpcAddress string) (http.Handler, error) {
	ctx := context.Background()
	over := gateway.NewServeMux(gateway.WithWriteContentLength())
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)), // the default is 4 MiB
	}
	if err := pb.RegisterTaskServiceHandlerFromEndpoint(ctx, over, grpcAddress, options); err != nil {
		return nil, err
	}
	inline := gateway.NewServeMux(gateway.WithWriteContentLength())
	if err := pb.RegisterTaskServiceHandlerServer(ctx, inline, tasksServer); err != nil {
		return nil, err
	}
	both := http.NewServeMux()
	both.Handle("/", over)
	both.Handle("/inline/", http.StripPrefix("/inline", inline))
	return both, nil
}
