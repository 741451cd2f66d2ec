"""Measure throughput, latency and CPU of taskgate and its peers, in one run on one machine: ``python -m bench``.

Trust the ratio of two rows, and never a single row: rounds are interleaved, so that other load on the machine affects
all rows alike.
"""
