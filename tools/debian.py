"""Provide Debian's gRPC for C++ and for Ruby: installed here, or unpacked below ``.venv/servers``.

Debian's plugins, of the same source packages, make their stubs: ``tools/stubs.py``.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.chromium import would_install
from tools.servers import SERVERS, Missing, last_line, run, unpack

_ROOT = SERVERS / "root" / "usr"
_LIBRARIES = "lib/*-linux-gnu"

_RUBY = SERVERS / "stubs" / "ruby" / "scripts"
"""Scripts that start the unpacked ruby and bundle; missing if this machine's own are used."""

_GEMS = ("ruby-grpc", "ruby-google-protobuf", "ruby-googleapis-common-protos-types")

_FIND = """
cmake_minimum_required(VERSION 3.18)
project(find CXX)
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
"""
_LOAD = 'require "grpc"; require "google/rpc/error_details_pb"; require "bundler"'
"""Programs that end well if gRPC is there."""


def provide_cpp() -> None:
    """Unpack libgrpc++-dev and what it needs, if necessary. Raises Missing, also without a compiler."""
    for program in ("cmake", "c++"):
        if shutil.which(program) is None:
            raise Missing(f"there is no {program} on this machine")
    if not _why_not_cpp():
        return
    wanted = _lacks("libgrpc++-dev", "libprotobuf-dev", "protobuf-compiler-grpc")
    unpack("gRPC for C++", sorted({*wanted, *_libraries_of(wanted)}))
    if problem := _why_not_cpp():
        raise Missing(f"CMake does not find Debian's gRPC: {problem}")


def cpp_environment() -> Mapping[str, str]:
    """Return the variables by which CMake, the linker and programs find gRPC; none if it is installed."""
    if Path("/usr/include/grpcpp/grpcpp.h").exists():
        return {}
    libraries = _paths(_LIBRARIES)
    # LIBRARY_PATH, since pkg-config's files name no folder for libraries that they expect in /usr.
    return {"CMAKE_PREFIX_PATH": str(_ROOT), "LIBRARY_PATH": libraries, "LD_LIBRARY_PATH": libraries}


def provide_ruby() -> None:
    """Unpack Ruby, Bundler and Debian's gems for gRPC, if necessary. Raises Missing."""
    if not _why_not_ruby():
        return
    unpack("gRPC for Ruby", _lacks("ruby", "ruby-bundler", *_GEMS))
    _write_ruby_scripts()
    if problem := _why_not_ruby():
        shutil.rmtree(_RUBY)  # hide it from the next ``ruby_environment``
        raise Missing(f"Debian's Ruby does not load gRPC: {problem}")


def ruby_environment() -> Mapping[str, str]:
    """Return the PATH on which ``ruby`` and ``bundle`` are those that were unpacked; none if they are installed."""
    return {"PATH": os.pathsep.join((str(_RUBY), os.environ["PATH"]))} if _RUBY.exists() else {}


def _why_not_cpp() -> str:
    """Return why CMake does not find gRPC; nothing if it does."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "CMakeLists.txt").write_text(_FIND, encoding="utf-8")
        done = run(["cmake", "-S", folder, "-B", f"{folder}/build"], Path(folder), cpp_environment())
    return last_line(done) if done.returncode else ""


def _why_not_ruby() -> str:
    """Return why Ruby does not load gRPC; nothing if it does."""
    environment = ruby_environment()
    if shutil.which("ruby", path=environment.get("PATH")) is None:
        return "there is no ruby"
    done = run(["ruby", "-e", _LOAD], SERVERS, environment)
    return last_line(done) if done.returncode else ""


def _lacks(*packages: str) -> list[str]:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(f"this is no Debian or Ubuntu to get {packages[0]} from")
    wanted = would_install(*packages)
    print(f"{packages[0]}: unpacking {len(wanted)} packages into {SERVERS} (nothing is installed)")
    return wanted


def _libraries_of(packages: Sequence[str]) -> list[str]:
    """Return the libraries that headers belong to. CMake wants them beside one another, even if one is installed."""
    headers = [package for package in packages if package.endswith("-dev")]
    shown = run(["apt-cache", "depends", "--important", *headers], SERVERS)
    return [name for name in re.findall(r"Depends: (lib\S+)", shown.stdout) if not re.search(r"-dev$|^libc6$", name)]


def _write_ruby_scripts() -> None:
    """Write ``ruby`` and ``bundle``, which find the unpacked libraries, Ruby's own modules, and the gems."""
    modules = _paths(
        "lib/ruby/vendor_ruby", f"{_LIBRARIES}/ruby/vendor_ruby/*", "lib/ruby/[0-9]*", f"{_LIBRARIES}/ruby/[0-9]*"
    )
    gems = _paths("share/rubygems-integration/*", f"{_LIBRARIES}/rubygems-integration/*")
    variables = f'LD_LIBRARY_PATH="{_paths(_LIBRARIES)}" RUBYLIB="{modules}" GEM_PATH="{gems}"'
    ruby = next((path for path in (Path("/usr/bin/ruby"), _ROOT / "bin" / "ruby") if path.exists()), "ruby")
    _RUBY.mkdir(parents=True, exist_ok=True)
    for name, command in {"ruby": f"{ruby}", "bundle": f"{ruby} {_ROOT}/bin/bundle"}.items():
        script = _RUBY / name
        script.write_text(f'#!/bin/sh\nexport {variables}\nexec {command} "$@"\n', encoding="utf-8")
        script.chmod(0o755)


def _paths(*patterns: str) -> str:
    """Return the unpacked folders of these names, for a variable."""
    return os.pathsep.join(str(path) for pattern in patterns for path in sorted(_ROOT.glob(pattern)))
