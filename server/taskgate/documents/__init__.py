"""Check and convert stored bytes: task documents, the typed ``Task``, and the rows that Conductor writes."""
