"""Import files of task documents into a store: ``taskgate import`` without its command line.

``source`` opens files, ``reader`` finds the documents in them, ``validation`` decides which of them are tasks,
``importer`` writes them in batches and counts.
"""

from taskgate.importing.importer import ImportSummary, Progress, Reject, SourceSummary, run_import
from taskgate.importing.source import Source

__all__ = ["ImportSummary", "Progress", "Reject", "Source", "SourceSummary", "run_import"]
