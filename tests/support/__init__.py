"""Shared test support: run taskgate as a user does, and call it through each of its front doors."""
