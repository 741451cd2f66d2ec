"""Envoy: render its configuration from the files in ``gateway/``, and run its process."""

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
