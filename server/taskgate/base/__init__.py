"""What every other package may import: errors, settings, addresses, task IDs, logs."""
