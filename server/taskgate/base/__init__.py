"""Shared foundations, which every other package may import: errors, settings, addresses, task IDs, logs."""
