"""The pages docs/api.md and docs/errors.md: ``python tools/reference.py generate|check``, from any folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.openapi import descriptors  # noqa: E402 - after the path above, as a script has its own folder there only
from tools.reference_pages import Reference  # noqa: E402 - same
from tools.subcommands import run_one  # noqa: E402 - same


def main() -> int:
    """Run one command. The exit code is 0 on success."""
    return run_one(
        __doc__,
        (
            ("generate", generate, "write both pages"),
            ("check", check, "fail if a page is not what the comments of the protos make"),
        ),
    )


def generate() -> int:
    """Replace the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


def check() -> int:
    """Compare the pages with fresh ones."""
    made = pages()
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} does not match protos/; run: make protos", file=sys.stderr)
    return int(bool(stale))


def pages() -> dict[Path, str]:
    """Each page as the protos make it."""
    reference = Reference(descriptors())
    return {ROOT / "docs/api.md": reference.api(), ROOT / "docs/errors.md": reference.errors()}


if __name__ == "__main__":
    sys.exit(main())
