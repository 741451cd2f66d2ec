"""Start, watch, replace and drain processes.

Import nothing here: a process inside Envoy must not load grpcio.
"""
