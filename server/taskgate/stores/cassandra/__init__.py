"""Cassandra as Conductor writes it."""
