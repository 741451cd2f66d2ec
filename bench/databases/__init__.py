"""Databases for a benchmark: each started empty on free loopback ports, and gone at the end with all it had."""
