"""The name of the embedded application in configurations that earlier versions printed."""

from taskgate.processes.embedded_app import app

__all__ = ["app"]
