"""The former name of ``processes.embedded_app``, which Envoy configurations of earlier versions contain."""

from taskgate.processes.embedded_app import app

__all__ = ["app"]
