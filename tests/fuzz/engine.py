"""Drive one target with atheris (libFuzzer), which mutates the inputs that reach new code."""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import structlog

_SECONDS_OF_AN_INPUT = 20
"""More is a crash. The slowest inputs take 0.1 s; the rest is for a machine that does other things."""

_MIB = 1024
"""Memory of a process, and of one allocation, in MiB; more is a crash."""


def silence() -> None:
    """Write no log: hostile calls are logged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def fuzz(name: str, folder: Path, seconds: int) -> NoReturn:
    """Fuzz the target called ``name`` for ``seconds``, and exit; not 0 after a crash."""
    try:
        import atheris  # noqa: PLC0415 - not on every machine
    except ImportError:
        sys.exit("make fuzz needs atheris, which has wheels for Linux on x86-64 and Python 3.11 to 3.14")
    with atheris.instrument_imports(include=["taskgate"]):
        from fuzz.all_targets import TARGETS  # noqa: PLC0415 - it imports what is to be instrumented
    silence()
    target = TARGETS[name]
    corpus = folder / "corpus"
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(_dictionary(target.words)))
    options = (
        *(
            f"-max_total_time={seconds}",
            f"-max_len={target.most_bytes}",
            f"-dict={words}",
            f"-artifact_prefix={folder}/",
        ),
        *(f"-timeout={_SECONDS_OF_AN_INPUT}", f"-rss_limit_mb={_MIB}", f"-malloc_limit_mb={_MIB}"),
        *("-print_final_stats=1", "-verbosity=0"),
    )
    atheris.Setup([sys.argv[0], str(corpus), *options], target.run)
    atheris.Fuzz()
    sys.exit(0)


def _dictionary(words: Iterable[bytes]) -> Iterable[str]:
    """Lines of libFuzzer's dictionary; it takes words of up to 64 bytes."""
    for word in words:
        escaped = "".join(f"\\x{byte:02x}" for byte in word[:64])
        yield f'"{escaped}"\n'
