"""The documents as a site: ``python tools/docs_site.py build|serve``, from any folder.

``build`` lays out README, ``docs/`` and what they link to in ``build/pages``, as they lie in the repository, so that
links work here and on the code host alike. Zensical makes ``build/site`` of them by ``zensical.toml``. Any warning is a
failure, and so is a page that would load something from another host.
"""

import functools
import http.server
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.subcommands import run_one  # noqa: E402 - after the path above, as a script has its own folder there only

PAGES = ROOT / "build/pages"
SITE = ROOT / "build/site"
SHIM = ROOT / "third_party/iframe-worker/shim.js"
"""npm's iframe-worker 1.0.4, unchanged. It lets the search work where the site is opened from a folder, without a
server; zensical.toml names the copy."""

DOCUMENTS = (
    "*.md",
    "docs/**/*.md",
    "gateway/README.md",
    "deploy/README.md",
    "bench/*.md",
    "examples/README.md",
    "examples/*/README.md",
)
ADDRESS = ("127.0.0.1", 8000)

_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
_BLOCK = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\ssrc="(?:https?:)?//[^"]*"
    |<link\b(?=[^>]*rel="(?:stylesheet|preload|preconnect|modulepreload|icon)")[^>]*\shref="(?:https?:)?//[^"]*"
    |url\(["']?(?:https?:)?//[^)]*\)|@import\s+["'](?:https?:)?//[^"']*["']""",
    re.VERBOSE,
)


def main() -> int:
    """Run one command. The exit code is 0 on success."""
    return run_one(
        __doc__,
        (
            ("build", build, "make build/site; fail on a warning"),
            ("serve", serve, "make it and show it on this machine, at http://127.0.0.1:8000, until Ctrl-C"),
        ),
    )


def build() -> int:
    """Lay out the pages, build the site, and look for what it would load from elsewhere."""
    missing = lay_out()
    for line in missing:
        print(line, file=sys.stderr)
    if missing:
        return 1
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        # Its traceback only says that --strict is set.
        print(done.stdout + done.stderr.partition("Traceback")[0], file=sys.stderr)
        return 1
    faults = list(loaded_from_elsewhere())
    for line in faults:
        print(line, file=sys.stderr)
    return int(bool(faults))


def serve() -> int:
    """Build the site and show it until Ctrl-C."""
    if code := build():
        return code
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(ADDRESS, handler) as server:
        print(f"http://{ADDRESS[0]}:{ADDRESS[1]} shows build/site; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def lay_out() -> list[str]:
    """Copy documents and linked files into a new ``build/pages``; return a line for each link that has no page."""
    shutil.rmtree(PAGES, ignore_errors=True)
    missing = []
    documents = [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    for document in documents:
        copy(document)
        for target in links(document):
            file = (document.parent / target).resolve()
            if file.is_file():
                copy(file)
            elif file.suffix != ".md":  # Zensical says which pages are missing
                missing.append(f"{document.relative_to(ROOT)}: {target} is no file that the site can have")
    (PAGES / "assets").mkdir()
    shutil.copyfile(SHIM, PAGES / "assets/iframe-worker.js")
    return missing


def links(document: Path) -> Iterator[str]:
    """The relative targets of the links in ``document``, without anchors."""
    for target in _LINK.findall(_BLOCK.sub("", document.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            yield target


def copy(file: Path) -> None:
    """Put ``file`` below ``build/pages``, at its place in the repository."""
    copied = PAGES / file.relative_to(ROOT)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copied)
    if file.is_relative_to(ROOT / "bench"):
        # Tables of figures, which would stand before the pages that explain what was searched for.
        copied.write_text(f"---\nsearch:\n  exclude: true\n---\n{file.read_text(encoding='utf-8')}", encoding="utf-8")


def loaded_from_elsewhere() -> Iterator[str]:
    """A line for each thing that a browser would ask another host for when it shows a page."""
    for file in sorted([*SITE.rglob("*.html"), *SITE.rglob("*.css")]):
        for found in _LOADED.findall(file.read_text(encoding="utf-8")):
            yield f"{file.relative_to(ROOT)} loads from elsewhere: {found}"


if __name__ == "__main__":
    sys.exit(main())
