"""Code shared by the writers of all stores."""
