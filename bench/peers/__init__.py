"""Servers that taskgate is compared with, each in a process of its own."""
