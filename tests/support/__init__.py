"""Shared test support: run taskgate as a user does, and call it with a client for each protocol."""
