package main

import (
	"context"
	"database/sql"
	"errors"

	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	pb "taskgate.invalid/bench/taskgatev1"
)

// server is the service over a store.
type server struct {
	pb.UnimplementedTaskServiceServer
	tasks *store
}

// lenient skips the keys that the schema has no field for, as taskgate does.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

// GetTaskJson returns the document as it is stored.
func (s *server) GetTaskJson(_ context.Context, request *pb.GetTaskJsonRequest) (*httpbody.HttpBody, error) {
	document, err := s.document(request.GetTaskId())
	if err != nil {
		return nil, err
	}
	return &httpbody.HttpBody{ContentType: "application/json", Data: document}, nil
}

// GetTask returns the document as a message.
func (s *server) GetTask(_ context.Context, request *pb.GetTaskRequest) (*pb.GetTaskResponse, error) {
	document, err := s.document(request.GetTaskId())
	if err != nil {
		return nil, err
	}
	task := &pb.Task{}
	if err := lenient.Unmarshal(document, task); err != nil {
		return nil, status.Error(codes.DataLoss, err.Error())
	}
	if step := task.GetWorkflowTask(); step != nil && step.RetryCount == 0 {
		step.RetryCount = -1 // Conductor's sign for "not given"
	}
	return &pb.GetTaskResponse{Task: task}, nil
}

func (s *server) document(taskID string) ([]byte, error) {
	document, err := s.tasks.get(taskID)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, status.Errorf(codes.NotFound, "Task not found for taskId: %s", taskID)
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return document, nil
}
