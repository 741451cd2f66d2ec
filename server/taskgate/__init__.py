"""taskgate answers one question for Conductor users: what happened to this task?"""

from importlib.metadata import version

__version__ = version("taskgate")
