"""Check the types of the documented programs that use ``taskgate.client``, as a caller's own mypy would.

Tests run the same blocks. Exit code 1 and mypy's own words if one has an error.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/client.md")

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def programs() -> list[str]:
    """Return the blocks of Python that import the client."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    return [block for text in texts for block in _BLOCK.findall(text) if "taskgate.client" in block]


def main() -> int:
    """Write each to a file of its own, and run mypy over all."""
    found = programs()
    if not found:
        print("no documented program uses taskgate.client")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"snippet_{number}.py") for number in range(len(found))]
        for file, text in zip(files, found, strict=True):
            file.write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", *map(str, files)], cwd=ROOT, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
