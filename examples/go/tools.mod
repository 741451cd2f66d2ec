// The plugins that `make stubs` builds: `go install -modfile tools.mod tool`. Apart from go.mod, which needs the stubs.
module taskgate.example/tools

go 1.26.0

tool (
	google.golang.org/grpc/cmd/protoc-gen-go-grpc
	google.golang.org/protobuf/cmd/protoc-gen-go
)

require (
	google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2
	google.golang.org/protobuf v1.36.12
)
