"""Envoy: its configuration, made from the files in ``gateway/``, and its process."""

from taskgate.processes.envoy.configuration import GatewayError, GatewaySettings, InsideEnvoy, render, resolve, validate
from taskgate.processes.envoy.process import EnvoyProcess

__all__ = ["EnvoyProcess", "GatewayError", "GatewaySettings", "InsideEnvoy", "render", "resolve", "validate"]
