"""Run one of a tool's commands: what the tools of this folder have in common."""

import argparse
from collections.abc import Callable, Iterable


def run_one(about: str | None, commands: Iterable[tuple[str, Callable[[], int], str]]) -> int:
    """Run the command that the command line names; return its exit code, 0 on success.

    ``about`` is the tool's help; ``commands`` are names, functions and what each does.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in commands:
        subparsers.add_parser(name, help=text, description=text).set_defaults(run=run)
    return int(parser.parse_args().run())
