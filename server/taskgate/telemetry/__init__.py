"""Measure what happens in a node: each server process counts, and one endpoint shows the sums to Prometheus."""
