"""Throughput, latency and CPU of taskgate beside its peers, in one run on one machine: ``python -m bench``.

What to trust is the ratio of two rows, never a row by itself: rounds are interleaved, so that whatever else the machine
does falls on all rows alike.
"""
