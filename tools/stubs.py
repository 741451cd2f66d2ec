"""Make the stubs of each language: ``python -m tools.stubs [LANGUAGE ...]``, into ``build/stubs/<language>``.

What the plugins of a language need is fetched once, into ``.venv/servers/stubs``; from then on no network is needed.
Each language has its own template, ``examples/<language>/buf.gen.yaml``, which a team can copy: it takes the protos
from a folder beside it, and the plugins by their usual names from PATH, where this module puts them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

from tools import cassandra_jars, maven
from tools.chromium import would_install
from tools.servers import SERVERS, Missing, last_line, run, unpack

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROTOS = ROOT / "build" / "taskgate-protos"
"""What the templates name, relative to the folder in which buf runs."""

STUBS = ROOT / "build" / "stubs"
TOOLS = SERVERS / "stubs"
"""A folder for each language's plugins, as fetched."""

PLUGINS = ROOT / "build" / "plugins"
"""A folder for each language's scripts that start a plugin under its usual name."""

BIN = Path(sys.executable).parent
_LEFT_OUT = ROOT / "tests" / "may_be_left_out.txt"

_PROST = ("protoc-gen-prost@0.5.0", "protoc-gen-prost-serde@0.4.0", "protoc-gen-tonic@0.5.0")
_GRPC_JAVA = "1.83.0"
_GRPC_KOTLIN = "1.5.0"
_MACHINES = MappingProxyType({"x86_64": "x86_64", "aarch64": "aarch_64", "arm64": "aarch_64"})
_SYSTEMS = MappingProxyType({"linux": "linux", "darwin": "osx"})
_EXTRA = MappingProxyType({"go": {"go.mod": "module taskgate.internal/go\n\ngo 1.26.0\n"}})
"""Files that make a language's stubs a package of it."""


def main(languages: Sequence[str]) -> int:
    """Make the stubs of ``languages``, or of all. What is missing is said; it is an error where CI is set."""
    if unknown := set(languages) - LANGUAGES.keys():
        print(f"no language {', '.join(sorted(unknown))}; there are {', '.join(LANGUAGES)}", file=sys.stderr)
        return 2
    missing: list[str] = []
    for language in languages or LANGUAGES:
        try:
            made = make_stubs(language)
        except (Missing, OSError) as error:
            missing.append(part_of(language))
            print(f"LEFT OUT: {language}: {error}", file=sys.stderr)
        else:
            print(f"{language}: {sum(path.is_file() for path in made.rglob('*'))} files in {made.relative_to(ROOT)}")
    if os.environ.get("CI", "").lower() not in {"1", "true"}:
        return 0
    forbidden = sorted(set(missing) - set(_LEFT_OUT.read_text(encoding="utf-8").splitlines()))
    for part in forbidden:
        print(f"FAILED: CI may not leave out {part}; {_LEFT_OUT.name} has what it may", file=sys.stderr)
    return int(bool(forbidden))


def part_of(language: str) -> str:
    """Return the name of the language's part in ``tools.parts``."""
    return f"{language} stubs"


def make_stubs(language: str) -> Path:
    """Replace and return the folder of a language's stubs. Raises Missing, and SystemExit if its plugins fail."""
    path = LANGUAGES[language]()
    _lay_out_protos()
    template = EXAMPLES / language / "buf.gen.yaml"
    folder = STUBS / language
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    command = [str(BIN / "buf"), "generate", "--template", str(template), "--output", str(fresh)]
    done = run(command, PROTOS.parent, {"PATH": os.pathsep.join((*map(str, path), str(BIN), os.environ["PATH"]))})
    if done.returncode:
        raise SystemExit(f"{language}: buf generate fails: {done.stderr}")
    for name, text in _EXTRA.get(language, {}).items():
        (fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    return fresh.rename(folder)


@cache
def _lay_out_protos() -> None:
    """Write our protos and what they import into one folder, by the command that teams use."""
    subprocess.run([BIN / "taskgate", "protos", PROTOS], check=True, stdout=subprocess.DEVNULL)


def _nothing() -> list[Path]:
    return []


def _python() -> list[Path]:
    plugin = ROOT / "tools" / "protoc_gen_grpc_python.py"
    return [_script("python", "grpc_python_plugin", f'exec "{sys.executable}" "{plugin}" "$@"')]


def _go() -> list[Path]:
    folder, made = EXAMPLES / "go", TOOLS / "go"
    environment = {"GOBIN": str(made), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    pin = (folder / "tools.mod").read_text(encoding="utf-8")
    _once([BIN / "go", "install", "-modfile", "tools.mod", "tool"], folder, made, pin, environment)
    return [made]


def _typescript() -> list[Path]:
    environment = {"PATH": os.pathsep.join((str(BIN), os.environ["PATH"]))}
    command = [BIN / "npm", "ci", "--no-audit", "--no-fund", "--silent"]
    for folder in (EXAMPLES / "typescript", EXAMPLES / "typescript-browser"):  # the second uses the first's stubs
        pin = (folder / "package-lock.json").read_text(encoding="utf-8")
        _once(command, folder, folder / "node_modules", pin, environment)
    return [EXAMPLES / "typescript" / "node_modules" / ".bin"]


def _rust() -> list[Path]:
    cargo, made = shutil.which("cargo"), TOOLS / "rust"
    if cargo is None:
        raise Missing("there is no cargo; put Rust's toolchain on PATH")
    _once([cargo, "install", "--quiet", "--locked", "--root", made, *_PROST], ROOT, made, " ".join(_PROST))
    return [made / "bin"]


def _java() -> list[Path]:
    machine = f"{_SYSTEMS.get(sys.platform)}-{_MACHINES.get(os.uname().machine)}"
    program = _from_maven(f"io.grpc:protoc-gen-grpc-java:{_GRPC_JAVA}:exe:{machine}")
    return [_script("java", "protoc-gen-grpc-java", f'exec "{program}" "$@"')]


def _kotlin() -> list[Path]:
    jar = _from_maven(f"io.grpc:protoc-gen-grpc-kotlin:{_GRPC_KOTLIN}:jar:jdk8")
    java = shutil.which("java") or cassandra_jars.find_java()
    return [*_java(), _script("kotlin", "protoc-gen-grpc-kotlin", f'exec "{java}" -jar "{jar}" "$@"')]


def _from_maven(artifact: str) -> Path:
    """Return the file of ``group:name:version:type:classifier``, fetched once. Raises Missing."""
    _, name, version, kind, classifier = artifact.split(":")
    folder = TOOLS / "maven"
    file = folder / f"{name}-{version}-{classifier}.{kind}"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        maven.run_maven(
            maven.find_maven(),
            "copy",
            f"-Dartifact={artifact}",
            f"-DoutputDirectory={folder}",
            folder=folder,
            wheels_java=Path(cassandra_jars.find_java()),
        )
        file.chmod(0o755)
    return file


def _debian(language: str, *programs: str) -> list[Path]:
    """Return ``language``'s folder with Debian's ``programs``: this machine's, or unpacked ones. Raises Missing."""
    root = SERVERS / "root" / "usr"
    if not all(Path("/usr/bin", name).exists() or (root / "bin" / name).exists() for name in programs):
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Missing("this is no Debian or Ubuntu to get protobuf-compiler-grpc from")
        wanted = would_install("protobuf-compiler", "protobuf-compiler-grpc")
        print(f"stubs: unpacking {', '.join(wanted)} into {SERVERS} (nothing is installed)")
        unpack("protobuf-compiler-grpc", wanted)
    libraries = ":".join(map(str, sorted({path.parent for path in (root / "lib").glob("*-linux-gnu*/*.so*")})))
    for name in programs:
        if (own := Path("/usr/bin", name)).exists():
            folder = _script(language, name, f'exec {own} "$@"')
        else:
            text = f'export LD_LIBRARY_PATH="{libraries}"\nexec "{root / "bin" / name}" "$@"'
            folder = _script(language, name, text)
    return [folder]


def _once(
    command: Sequence[str | Path], folder: Path, made: Path, pin: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command in ``folder``, which fills ``made``, unless it has done so for this ``pin``. Raises Missing."""
    stamp = made / ".pin"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pin:
        return
    done = run([str(word) for word in command], folder, environment or {})
    if done.returncode:
        raise Missing(f"{Path(command[0]).name} fails: {last_line(done)}")
    stamp.write_text(pin, encoding="utf-8")


def _script(language: str, name: str, text: str) -> Path:
    """Write a shell script into ``language``'s folder, and return the folder."""
    script = PLUGINS / language / name
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    script.chmod(0o755)
    return script.parent


LANGUAGES: Mapping[str, Callable[[], Sequence[Path]]] = MappingProxyType(
    {
        "python": _python,
        "go": _go,
        "typescript": _typescript,
        "java": _java,
        "kotlin": _kotlin,
        "rust": _rust,
        "cpp": partial(_debian, "cpp", "protoc", "grpc_cpp_plugin"),
        "ruby": partial(_debian, "ruby", "grpc_ruby_plugin"),
        "csharp": _nothing,
    }
)
"""What provides each language's plugins: a function that fetches them if necessary, and returns folders for PATH."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
