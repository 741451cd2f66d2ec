"""Envoy: render its configuration from the files in ``gateway/``, and run its process."""

from taskgate.processes.envoy.configuration import (
    EmbeddedService,
    GatewaySettings,
    render,
    render_secrets,
    resolve,
    validate,
)
from taskgate.processes.envoy.nodes import GatewayError
from taskgate.processes.envoy.process import EnvoyProcess

__all__ = [
    "EmbeddedService",
    "EnvoyProcess",
    "GatewayError",
    "GatewaySettings",
    "render",
    "render_secrets",
    "resolve",
    "validate",
]
