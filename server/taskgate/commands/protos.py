"""``taskgate protos``: write the protos of the API and all that they import into one folder."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import click

from taskgate.base.errors import SettingsError

_ALSO = ("google/rpc/error_details.proto", "google/rpc/status.proto")
"""What none of our protos imports, and clients need to read the details of an error."""

_IMPORT = re.compile(r'^import (?:public |weak )?"([^"]+)";', re.MULTILINE)

_MARK = "# Written by `taskgate protos`"

_BUF = f"""\
{_MARK}, which replaces these files when it is run again.
# `buf generate --path taskgate` makes code for the API alone: most languages have Google's in a library.
version: v2
modules:
  - path: .
lint:
  ignore: [google] # Google's files, by Google's rules
"""


def run_protos(folder: Path) -> None:
    """Write the protos into ``folder``, which is made if it is missing.

    Raises SettingsError if the folder holds other files, or cannot be written.
    """
    files = {**_protos(), "buf.yaml": _BUF}
    try:
        _check_folder(folder, files.keys())
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"DIR: cannot write {error.filename or folder}: {error.strerror}") from error
    click.echo(f"Wrote {len(files)} files into {folder}. Try, in that folder:")
    click.echo("  protoc -I . --java_out=OUT taskgate/v1/*.proto")


def _protos() -> dict[str, str]:
    """Return all files by the names under which they are imported."""
    roots = list(_roots())
    names = [f"taskgate/v1/{path.name}" for path in sorted((roots[0] / "taskgate/v1").glob("*.proto"))]
    wanted, files = {*names, *_ALSO}, dict[str, str]()
    while pending := wanted - files.keys():
        for name in sorted(pending):
            path = next(path for root in roots if (path := root / name).is_file())
            files[name] = path.read_text(encoding="utf-8")
            wanted.update(_IMPORT.findall(files[name]))
    return files


def _roots() -> Iterator[Path]:
    """Yield the folders that hold protos; ours are in the first one."""
    from google.api import annotations_pb2  # noqa: PLC0415 - for the place of its wheel, which also has the protos

    package = Path(__file__).resolve().parents[1]
    if (package / "_protos").is_dir():
        yield package / "_protos"
    else:  # a checkout
        yield from (package.parents[1] / name for name in ("protos", "third_party"))
    yield Path(annotations_pb2.__file__).resolve().parents[2]


def _check_folder(folder: Path, ours: Collection[str]) -> None:
    """Raise SettingsError unless ``folder`` is missing, empty, or was written by this command."""
    if not folder.exists():
        return
    config = folder / "buf.yaml"
    written = config.is_file() and config.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
    for path in _files_in(folder):
        if not written or path.relative_to(folder).as_posix() not in ours:
            raise SettingsError(
                f"DIR: {folder} holds other files, such as {path.relative_to(folder)}; name an empty folder"
            )


def _files_in(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names)
