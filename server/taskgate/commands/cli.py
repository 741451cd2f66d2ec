"""The ``taskgate`` command: flags to settings, faults to one sentence and an exit code.

Exit codes: 0 done (a drained Ctrl-C included), 1 it ran and something failed, 2 it could not be asked so.
"""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog

from taskgate.base.errors import SettingsError, TaskgateError
from taskgate.base.logs import configure_logs
from taskgate.base.printable import printable, printable_lines
from taskgate.base.settings import Settings, load_settings, metavar, unknown_variables

F = TypeVar("F", bound=Callable[..., Any])


class _Taskgate(click.Group):
    """Reports every fault that has a sentence as that sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.echo(f"taskgate: {printable_lines(str(error))}", err=True)
            ctx.exit(2)
        except TaskgateError as error:
            click.echo(f"taskgate: {printable(error.private)}", err=True)
            ctx.exit(1)


def with_settings(*names: str) -> Callable[[F], F]:
    """Give a command ``--config`` and one option for each named setting, and pass it ``settings``."""
    if "mode" in names:
        names = (*names, "transport")

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(config: Path | None, **arguments: Any) -> Any:
            flags = {name: arguments.pop(name) for name in names}
            settings = load_settings(config, {name: value for name, value in flags.items() if value is not None})
            configure_logs(settings.log_level, settings.log_format)
            if settings.transport is not None:
                structlog.get_logger("taskgate").warning("transport is now called mode", use=f"--mode {settings.mode}")
            if unknown := unknown_variables(os.environ):
                structlog.get_logger("taskgate").warning("variables that are no settings", ignored=", ".join(unknown))
            return command(settings=settings, **arguments)

        wrapped: Any = run
        for name in reversed(names):
            wrapped = _option(name)(wrapped)
        return click.option(  # type: ignore[no-any-return]
            "--config", type=click.Path(path_type=Path), help="TOML file of settings; flags and TASKGATE_* win over it."
        )(wrapped)

    return decorate


def _option(name: str) -> Callable[[Any], Any]:
    field = Settings.model_fields[name]
    default = "this host's name" if field.default_factory else str(field.default) or "none"
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        metavar=metavar(name),
        hidden=name == "transport",  # a former name
        help=f"{field.description} [TASKGATE_{name.upper()}; default: {default}]",
    )


_SERVER_SETTINGS = (
    "store",
    "layout",
    "task_id_format",
    "grpc",
    "workers",
    "request_timeout",
    "in_flight_mib",
    "drain_delay",
    "shutdown_grace",
    "log_level",
    "log_format",
)


@click.group(cls=_Taskgate, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="taskgate", prog_name="taskgate")
def main() -> None:
    """Serve Conductor task executions by ID, over gRPC and Conductor's own REST path.

    \b
    Try it:
      taskgate up --demo                      everything on this machine, with one task to ask for
      taskgate import tasks.ndjson            load task documents into sqlite:///tasks.db
      taskgate get 65fc73fe-0586-11f1-8b8d-6219b54da7fe

    Every setting is a flag, a TASKGATE_* variable, or a key of a TOML file (--config), in this order.
    """


# What is no setting stands where the second half of a line says; tests/cli compares the figures.
_LIMITS = """\b
Graces and limits, for each process:
  at shutdown, serving while health checks fail     --drain-delay
  then, for calls that run                          --shutdown-grace
  beside the successor, when replaced (SIGHUP)      1 s, then --shutdown-grace
  until a process that starts takes calls           30 s
  until one that hangs is ended                     1 s; 15 s if its event loop or its listener does; 60 s in the kernel
  a call                                            --request-timeout, or the caller's deadline
  headers of a request · a reader that stops        5 s · 60 s (gateway/envoy.yaml)
  a request, until all of it is there               --request-timeout + 1 s
  a connection without calls · a health watch       15 min · 60 min (gateway/envoy.yaml)
  connections                                       10,000, or fewer by the limit of open files
  open files                                        the hard limit (ulimit -Hn), to which the soft one is raised
  calls on one HTTP/2 connection                    100 (gateway/envoy.yaml)
  calls at a time, --mode proxied                   4,096 (gateway/envoy.yaml)
  a document, an answer                             32 MiB
  answers over 64 KiB in flight                     --in-flight-mib; half for an address, a quarter for a connection
  the slowest reader of such an answer              64 KiB/s for 10 s
  a gRPC request                                    64 KiB
  headers of a request                              32 KiB (gateway/envoy.yaml)
  memory of Envoy, before it refuses calls          2 GiB (gateway/envoy.yaml)
  connections to the store                          pool_size of its URL
"""


@main.command(epilog=_LIMITS)
@with_settings(*_SERVER_SETTINGS, "mode", "http", "instance", "access_log")
@click.option("--demo", is_flag=True, help="Load the documented sample task into the store first.")
def up(settings: Settings, *, demo: bool) -> None:
    """Run the whole thing on one machine: store, service, Envoy.

    Prints a curl command that works. Ctrl-C drains and stops everything; a second one stops at once. SIGHUP replaces
    the processes one after the other without failing a call on a connection that is kept; with --mode proxied
    these are the gRPC servers, and not Envoy.

    \b
    Examples:
      taskgate up --demo
      taskgate up --store sqlite:////var/lib/taskgate/tasks.db --http 0.0.0.0:8080 --workers 4
    """
    from taskgate.commands.up import run_up

    run_up(settings, demo=demo)


@main.command()
@with_settings(*_SERVER_SETTINGS)
def serve(settings: Settings) -> None:
    """Run the gRPC server alone, without Envoy.

    With --workers N, N processes share the port and the kernel spreads connections (not calls) over them.

    \b
    Examples:
      taskgate serve
      TASKGATE_STORE=sqlite:////var/lib/taskgate/tasks.db taskgate serve --grpc 0.0.0.0:50051 --workers 2
    """
    from taskgate.commands.serve import run_serve

    run_serve(settings)


@main.command("import")
@with_settings("store", "layout", "task_id_format", "log_level", "log_format")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; rejects and the summary are still printed.")
def import_(settings: Settings, files: tuple[str, ...], *, quiet: bool) -> None:
    """Load task documents into a store; safe to run again.

    FILE holds a Task, a list of them, one per line (NDJSON), or a Workflow with its "tasks"; "-" is standard input.
    Of several versions of a task the latest is kept, in whatever order they come: the later updateTime or, where that
    is the same, the one that has ended. Rejected documents are listed with file, line and reason; all others are kept,
    and the exit code is then 1.

    \b
    Examples:
      taskgate import tasks.ndjson more/*.json
      curl -s http://conductor:8080/api/workflow/$ID | taskgate import -
    """
    from taskgate.commands.import_tasks import run_import

    sys.exit(run_import(settings, files, quiet=quiet))


@main.command()
@with_settings(
    *("mode", "http", "grpc", "workers", "request_timeout", "instance", "access_log", "log_level", "log_format")
)
@click.option("--validate", is_flag=True, help="Have Envoy check the configuration instead of printing it.")
def gateway(settings: Settings, *, validate: bool) -> None:
    """Print the Envoy configuration that 'up' would run with these settings.

    \b
    Examples:
      taskgate gateway --mode proxied --http 0.0.0.0:80 > envoy.yaml
      taskgate gateway --validate
    """
    from taskgate.commands.gateway import run_gateway

    run_gateway(settings, validate_only=validate)


@main.command()
@click.argument("task_id")
@click.option(
    "--server", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="A taskgate or Envoy gRPC port."
)
@click.option("--json", "as_json", is_flag=True, help="Print the exact REST document instead of a summary.")
@click.option(
    *("--timeout", "timeout"),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long to wait for the answer.",
)
def get(task_id: str, server: str, timeout: float, *, as_json: bool) -> None:
    """Ask a running server for one task.

    \b
    Examples:
      taskgate get 65fc73fe-0586-11f1-8b8d-6219b54da7fe
      taskgate get --json 65fc73fe-0586-11f1-8b8d-6219b54da7fe | jq .outputData
    """
    from taskgate.commands.get import run_get

    sys.exit(run_get(task_id, server=server, timeout=timeout, as_json=as_json))
