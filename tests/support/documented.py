"""Read code blocks of README and docs, for tests that run them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "gateway/README.md", "deploy/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "examples" / name for name in ("README.md", "csharp/README.md")),  # no client is there to run
]

PAGES_OF_EXAMPLES = sorted({*(ROOT / "examples").glob("*/README.md")} - {*DOCUMENTS})
"""Documents whose blocks tests/examples and tests/browser run."""

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    """The path from the root of the repository."""
    line: int
    """The line of its first fence, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All fenced blocks in one of ``languages``, in reading order."""
    return [block for document in DOCUMENTS for block in blocks_of(document) if block.language in languages]


def blocks_of(document: Path) -> Iterator[Block]:
    """All fenced blocks of a document."""
    text = document.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(str(document.relative_to(ROOT)), line, match[2], dedent(match[3]))


def without_blocks(document: Path) -> str:
    """The text of a document without its fenced blocks."""
    return _BLOCK.sub("", document.read_text(encoding="utf-8"))


def statements(database: str) -> list[str]:
    """The SQL statements, or lines for Redis, that docs/stores has for the administrators of a database.

    ``database`` is the name of the page without its suffix.
    """
    page = (ROOT / "docs/stores" / f"{database}.md").read_text(encoding="utf-8")
    texts = [match[3] for match in _BLOCK.finditer(page) if match[2] in {"sql", "redis"}]
    found = [line.rstrip(";") for text in texts for line in text.splitlines() if line]
    assert found, f"docs/stores/{database}.md tells nothing to allow"
    return found
