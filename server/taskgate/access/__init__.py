"""Decide who may read: keys and tokens of applications, tokens of an identity provider, roles."""
