"""The ``taskgate`` command line: turn flags into settings, and errors into one sentence and an exit code.

Exit codes: 0: success, including a clean Ctrl-C shutdown; 1: runtime failure; 2: invalid arguments or settings.
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
    """The group of all commands. It prints an expected error as one sentence, without a traceback."""

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
    """Decorate a command: add ``--config`` and an option for each named setting, and pass it ``settings``."""
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
                structlog.get_logger("taskgate").warning("unknown TASKGATE_ variables", ignored=", ".join(unknown))
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
      taskgate up --demo                      run everything on this machine, with one sample task
      taskgate import tasks.ndjson            load task documents into sqlite:///tasks.db
      taskgate get 65fc73fe-0586-11f1-8b8d-6219b54da7fe

    Every setting is a flag, a TASKGATE_* variable or a key of a TOML file (--config). The first of these wins.
    """


# A limit that is no setting is followed by the file that defines it; tests/cli compares the figures.
_LIMITS = """\b
Times and limits, for each process:
  shutdown: health checks fail, calls are served    --drain-delay
  shutdown: calls in flight finish                  --shutdown-grace
  SIGHUP: the old process serves beside the new     1 s, then --shutdown-grace
  start of a process, until it accepts calls        30 s
  hang of a process, until it is replaced           1 s; 15 s for an event loop or a listener; 60 s in the kernel
  call                                              --request-timeout, or the caller's deadline
  headers of a request · pause of a reader          5 s · 60 s (gateway/envoy.yaml)
  whole request                                     --request-timeout + 1 s
  connection without calls · health watch           15 min · 60 min (gateway/envoy.yaml)
  connections                                       10,000, or fewer if the limit of open files is low
  open files                                        the hard limit (ulimit -Hn); the soft limit is raised to it
  calls on one HTTP/2 connection                    100 (gateway/envoy.yaml)
  calls at a time, --mode proxied                   4,096 (gateway/envoy.yaml)
  document or answer                                32 MiB
  answers over 64 KiB, in flight                    --in-flight-mib; half for an address, a quarter for a connection
  slowest reader of such an answer                  64 KiB/s for 10 s
  gRPC request                                      64 KiB
  size of a request's headers                       32 KiB (gateway/envoy.yaml)
  memory of Envoy, before it refuses calls          2 GiB (gateway/envoy.yaml)
  connections to the store                          pool_size in the URL of the store
"""


@main.command(epilog=_LIMITS)
@with_settings(*_SERVER_SETTINGS, "mode", "http", "instance", "access_log")
@click.option("--demo", is_flag=True, help="Load the documented sample task into the store first.")
def up(settings: Settings, *, demo: bool) -> None:
    """Run everything on one machine: store, service and Envoy.

    Prints a curl command to try. Ctrl-C drains and stops everything; a second Ctrl-C stops at once. SIGHUP replaces the
    server processes one by one, and calls on established connections do not fail; with --mode proxied, these are the
    gRPC servers but not Envoy.

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

    With --workers N, N processes share the port; the kernel spreads connections (not calls) over them.

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
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bar; still print rejects and the summary.")
def import_(settings: Settings, files: tuple[str, ...], *, quiet: bool) -> None:
    """Load task documents into a store; safe to run again.

    FILE holds a Task, a list of Tasks, one Task per line (NDJSON), or a Workflow with its "tasks"; "-" is standard
    input. Of several versions of a task, in any order, the latest is kept: the one with the later updateTime or, if
    these are equal, the one that has ended. Rejected documents are listed with file, line and reason; all others are
    stored, and the exit code is then 1.

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
@click.option("--validate", is_flag=True, help="Let Envoy check the configuration instead of printing it.")
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
    "--server", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="gRPC port of server or Envoy."
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
