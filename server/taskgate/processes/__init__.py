"""Start, watch, replace and drain processes.

This module stays empty, because a process inside Envoy must not import grpcio.
"""
