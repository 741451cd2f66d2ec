"""Generate ``*_pb2_grpc.py`` and its types as a protoc plugin for buf, for the files that declare a service.

grpcio-tools writes these stubs only from inside its own protoc, while buf calls plugins: a serialised
``CodeGeneratorRequest`` on standard input, a ``CodeGeneratorResponse`` on standard output. This plugin passes the
request to that protoc, and returns its files. Both generators would write an empty module for a file without a service;
those files are left out.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped] # the wheel ships no types


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Return the stubs for ``request``. Raises SystemExit if protoc fails; protoc prints why on standard error."""
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    wanted = set(request.file_to_generate)
    names = [file.name for file in request.proto_file if file.service and file.name in wanted]
    if not names:
        return response
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors.binpb")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(folder, "out")
        out.mkdir()
        outputs = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
        if status := protoc.main(["protoc", f"--descriptor_set_in={descriptors}", *outputs, *names]):
            sys.exit(status)
        for path in sorted(file for file in out.rglob("*") if file.is_file()):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text(encoding="utf-8"))
    return response


if __name__ == "__main__":
    answer = generate(CodeGeneratorRequest.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(answer.SerializeToString())
