"""Carry calls over a wire: grpc.aio, or gRPC and REST over ASGI inside Envoy."""
