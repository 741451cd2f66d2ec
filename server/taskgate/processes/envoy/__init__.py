"""Envoy: its configuration, made from the files in ``gateway/``, and its process."""

from taskgate.processes.envoy.configuration import (
    EmbeddedService,
    GatewayError,
    GatewaySettings,
    render,
    resolve,
    validate,
)
from taskgate.processes.envoy.process import EnvoyProcess

__all__ = ["EmbeddedService", "EnvoyProcess", "GatewayError", "GatewaySettings", "render", "resolve", "validate"]
