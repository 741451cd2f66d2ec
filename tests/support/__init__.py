"""What tests share: running taskgate as a user does, and asking it through each of its front doors."""
