"""Conductor's Cassandra store."""
