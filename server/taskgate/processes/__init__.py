"""Processes that are started, watched, replaced and drained."""
