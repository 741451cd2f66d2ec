"""The OpenAPI document, and the explorer that shows it: ``python tools/openapi.py COMMAND``, from any folder.

``gateway/openapi.json`` is made of ``protos/``. ``gateway/docs`` has a compressed copy of Swagger UI, as npm has it.
npm's packages are pinned in ``tools/npm``.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from openapi_spec_validator import OpenAPIV31SpecValidator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import protos  # noqa: E402 - after the path above, as a script has its own folder there only
from tools.openapi_document import document  # noqa: E402 - same
from tools.openapi_schemas import Protos  # noqa: E402 - same
from tools.subcommands import run_one  # noqa: E402 - same

DOCUMENT = ROOT / "gateway/openapi.json"
EXPLORER = ROOT / "gateway/docs"
NPM = ROOT / "tools/npm"
SWAGGER_UI = NPM / "node_modules/swagger-ui-dist"
COPIED = ("swagger-ui-bundle.js", "swagger-ui.css")
LICENSES = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")

_BIN = Path(sys.executable).parent


class LeftOut(Exception):
    """What npm has cannot be had here; the text says why."""


def main() -> int:
    """Run one command. The exit code is 0 on success."""
    return run_one(
        __doc__,
        (
            ("generate", generate, "write gateway/openapi.json"),
            ("check", check, "fail if gateway/openapi.json is not what the protos make, or is not valid OpenAPI 3.1"),
            ("lint", lint, "check style with Redocly, and the copy of Swagger UI; both need npm"),
            ("explorer", explorer, "copy Swagger UI into gateway/docs; needs npm"),
        ),
    )


def generate() -> int:
    """Replace the document."""
    DOCUMENT.write_text(made(), encoding="utf-8")
    return 0


def check() -> int:
    """Compare the document with a fresh one, and validate it."""
    if not DOCUMENT.is_file() or DOCUMENT.read_text(encoding="utf-8") != made():
        print(f"{DOCUMENT.relative_to(ROOT)} does not match protos/; run: make protos", file=sys.stderr)
        return 1
    faults = list(OpenAPIV31SpecValidator(json.loads(DOCUMENT.read_bytes())).iter_errors())
    for fault in faults:
        print(f"{DOCUMENT.relative_to(ROOT)}: {'/'.join(map(str, fault.path))}: {fault.message}", file=sys.stderr)
    return int(bool(faults))


def lint() -> int:
    """Run Redocly; compare the copy. Where npm reaches no registry, say so, and fail in CI alone."""
    try:
        install()
    except LeftOut as error:
        print(f"LEFT OUT: Redocly and the copy of Swagger UI, because {error}", file=sys.stderr)
        return int(os.environ.get("CI", "").lower() in {"1", "true"})
    stale = [name for name in COPIED if unpacked(EXPLORER / f"{name}.gz") != (SWAGGER_UI / name).read_bytes()]
    for name in stale:
        print(f"gateway/docs/{name}.gz is not npm's; run: python tools/openapi.py explorer", file=sys.stderr)
    options = ("--config", str(NPM / "redocly.yaml"))
    done = npm_program("redocly", "lint", *options, str(DOCUMENT))
    return int(bool(stale)) or done


def explorer() -> int:
    """Replace the copy of Swagger UI with that of ``tools/npm/package-lock.json``."""
    install()
    for name in COPIED:
        packed = gzip.compress((SWAGGER_UI / name).read_bytes(), mtime=0)
        (EXPLORER / f"{name}.gz").write_bytes(packed)
    texts = [(SWAGGER_UI / name).read_text(encoding="utf-8").strip() for name in LICENSES]
    version = json.loads((SWAGGER_UI / "package.json").read_bytes())["version"]
    head = f"swagger-ui-bundle.js and swagger-ui.css are those of swagger-ui-dist {version}, unchanged."
    (EXPLORER / "LICENSE.txt").write_text("\n\n".join((head, *texts)) + "\n", encoding="utf-8")
    return 0


def made() -> str:
    """The document as the protos make it."""
    whole = document(Protos(descriptors()))
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def descriptors() -> FileDescriptorSet:
    """The descriptor set of the protos, with their comments."""
    buf = shutil.which("buf", path=os.pathsep.join((str(_BIN), os.environ.get("PATH", ""))))
    if buf is None:
        raise SystemExit(f"buf is not in {_BIN}; run: make setup")
    command = [buf, "build", protos.PROTOS, "--as-file-descriptor-set", "--output", "-"]
    built = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return FileDescriptorSet.FromString(built)


def install() -> None:
    """Install what ``tools/npm`` names, unless it is there. Raises LeftOut."""
    lock, installed = NPM / "package-lock.json", NPM / "node_modules/.package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    try:
        code = npm_program("npm", "ci", "--no-audit", "--no-fund", "--silent", "--ignore-scripts", folder=_BIN)
    except OSError as error:
        raise LeftOut(f"npm cannot be started: {error.strerror}") from error
    if code:
        raise LeftOut("npm reaches no registry (npm config set registry …)")


def npm_program(name: str, *arguments: str, folder: Path = NPM / "node_modules/.bin") -> int:
    """Run npm, or a program that it has installed; return its exit code."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(_BIN), os.environ.get("PATH", os.defpath))),
        "REDOCLY_TELEMETRY": "off",
        "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    }
    return subprocess.run([str(folder / name), *arguments], cwd=NPM, env=environment, check=False).returncode


def unpacked(path: Path) -> bytes:
    """The content of a compressed file; empty without one."""
    return gzip.decompress(path.read_bytes()) if path.is_file() else b""


if __name__ == "__main__":
    sys.exit(main())
