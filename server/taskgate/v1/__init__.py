"""Stubs generated from ``protos/taskgate/v1``; see ``buf.gen.yaml``."""
