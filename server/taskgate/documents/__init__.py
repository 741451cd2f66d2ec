"""Bytes to bytes: stored documents, the typed ``Task``, and the rows that Conductor writes."""
