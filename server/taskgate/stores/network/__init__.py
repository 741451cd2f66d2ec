"""What the stores behind a network share: pools, circuits, URLs."""
