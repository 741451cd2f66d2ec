"""Code shared by the stores on a network: connection pools, circuit breakers, URLs."""
