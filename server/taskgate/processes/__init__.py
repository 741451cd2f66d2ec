"""Start, watch, replace and drain processes. Kept empty: a process inside Envoy must not import grpcio."""
