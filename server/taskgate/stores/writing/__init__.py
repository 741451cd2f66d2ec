"""What the writers of all stores share."""
