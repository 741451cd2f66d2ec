"""The ``taskgate`` command line: its commands, their help, and their exit codes.

Exit codes: 0: success, including a clean Ctrl-C shutdown; 1: runtime failure, a start that failed, or rejected
documents; 2: invalid arguments or settings; 3: the task that ``get --watch`` followed ended without success; 130:
stopped by Ctrl-C, before ``up`` and ``serve`` handle it; 128 + N: ``up`` or ``serve`` stopped at once by a second
signal, of the number N.
"""

import signal
import sys
from pathlib import Path
from typing import Any

import click

from taskgate.base.errors import SettingsError, StartError, TaskgateError
from taskgate.base.printable import printable, printable_lines
from taskgate.base.settings import ROLES, Settings
from taskgate.commands.options import ENVOY_SETTINGS, LISTENER_TLS, SERVER_SETTINGS, with_settings

_COMMANDLINE = click.core.ParameterSource.COMMANDLINE


class _Taskgate(click.Group):
    """The group of all commands. An expected error is one sentence and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            click.echo(f"taskgate: {printable_lines(str(error))}", err=True)
            ctx.exit(2)
        except StartError as error:
            click.echo(f"taskgate: {printable_lines(str(error))}", err=True)
            ctx.exit(1)
        except TaskgateError as error:
            click.echo(f"taskgate: {printable(error.private)}", err=True)
            ctx.exit(1)


@click.group(cls=_Taskgate, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="taskgate", prog_name="taskgate")
def main() -> None:
    """Serve Conductor task executions by ID, over gRPC and Conductor's own REST path.

    \b
    Try it:
      taskgate up --demo                      run everything on this machine, with one sample task
      taskgate import tasks.ndjson            load task documents into sqlite:///tasks.db
      taskgate get 65fc73fe-0586-11f1-8b8d-6219b54da7fe

    Every setting is a flag, a TASKGATE_* variable, the file that a TASKGATE_*_FILE variable names, or a key of a TOML
    file (--config). The first of these wins.
    """


# A limit that is no setting is followed by the file that defines it; tests/cli compares the figures.
_LIMITS = """\b
Times and limits, for each process:
  shutdown: health checks fail, calls are served    --drain-delay
  shutdown: calls in flight finish                  --shutdown-grace
  SIGHUP: the old process serves beside the new     1 s, then --shutdown-grace
  start of a process, until it accepts calls        30 s
  hang of a process, until it is replaced           3 s; 15 s for an event loop or a listener; 60 s in the kernel
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
  slowest reader of a large answer                  64 KiB/s for 10 s
  gRPC request                                      64 KiB
  size of a request's headers                       32 KiB (gateway/envoy.yaml)
  memory of Envoy, before it refuses calls          2 GiB (gateway/envoy.yaml)
  connections to the store                          pool_size in the URL of the store
"""


@main.command(epilog=_LIMITS)
@with_settings(*SERVER_SETTINGS, "mode", "http", *ENVOY_SETTINGS)
@click.option("--demo", is_flag=True, help="Load the documented sample task into the store first.")
def up(settings: Settings, *, demo: bool) -> None:
    """Run everything on one machine: store, service and Envoy.

    Prints a curl command to try. Ctrl-C drains and stops everything; a second Ctrl-C stops at once. SIGHUP replaces the
    server processes one by one, and calls on established connections do not fail; with --mode proxied, these are the
    gRPC servers but not Envoy.

    \b
    Examples:
      taskgate up --demo
      taskgate up --store sqlite:////var/lib/taskgate/tasks.db --workers 4
      taskgate up --http 0.0.0.0:8443 --tls-cert tls.crt --tls-key tls.key --tls-client-ca clients.crt
    """
    from taskgate.commands.up import run_up

    run_up(settings, demo=demo)


@main.command()
@with_settings(*SERVER_SETTINGS)
def serve(settings: Settings) -> None:
    """Run the gRPC server alone, without Envoy.

    With --workers N, N processes share the port; the kernel spreads connections (not calls) over them.

    \b
    Examples:
      taskgate serve
      TASKGATE_STORE=sqlite:////var/lib/taskgate/tasks.db taskgate serve --workers 2
      taskgate serve --grpc 0.0.0.0:50051 --tls-cert tls.crt --tls-key tls.key --tls-client-ca clients.crt
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
    *("mode", "auth", "http", "grpc", *LISTENER_TLS, "workers", "request_timeout", *ENVOY_SETTINGS),
    *("log_level", "log_format"),
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
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def protos(folder: Path) -> None:
    """Write the protos of the API into a folder, with all that they import, to generate code from.

    It is the only import path that protoc needs; buf and the plugins of Gradle and Maven build it as it is. DIR is made
    if it is missing. One that holds other files is refused.

    \b
    Examples:
      taskgate protos protos
      taskgate protos build/protos && cd build/protos && buf build
    """
    from taskgate.commands.protos import run_protos

    run_protos(folder)


@main.command("settings")
@with_settings(*(name for name in Settings.model_fields if name != "transport"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
def settings_(context: click.Context, settings: Settings, *, as_json: bool) -> None:
    """Print the settings in force, and where each value comes from.

    It takes the flags, variables and files that 'up' takes, and says at the end what 'up' would refuse. In URLs, ***
    stands for users and passwords.

    \b
    Examples:
      taskgate settings
      TASKGATE_STORE_FILE=/run/secrets/store taskgate settings --config taskgate.toml --json
    """
    from taskgate.commands.settings import run_settings

    names = (name for name in context.params if name in Settings.model_fields)
    given = {name: context.params[name] for name in names if context.get_parameter_source(name) is _COMMANDLINE}
    run_settings(settings, context.params["config"], given, as_json=as_json)


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
@click.option("--tls", is_flag=True, help="Use TLS, and trust the authorities that this machine trusts.")
@click.option(
    "--tls-ca", "ca", type=click.Path(path_type=Path), metavar="FILE", help="Use TLS, and trust these authorities."
)
@click.option(
    "--tls-cert", "cert", type=click.Path(path_type=Path), metavar="FILE", help="Show this certificate to the server."
)
@click.option(
    "--tls-key", "key", type=click.Path(path_type=Path), metavar="FILE", help="Private key of the certificate."
)
@click.option(
    "--token",
    metavar="TOKEN",
    help="Token to send, where the server asks for one. Other users can see flags: the variable TASKGATE_TOKEN, or a"
    " file that TASKGATE_TOKEN_FILE names, is safer. Without TLS it travels in clear text.",
)
@click.option("--watch", is_flag=True, help="Ask again until the task has ended, and print each change of its status.")
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    help="How long to wait before --watch asks again.",
)
def get(
    task_id: str,
    server: str,
    *,
    timeout: float,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    token: str | None,
    interval: float,
    as_json: bool,
    tls: bool,
    watch: bool,
) -> None:
    """Ask a running server for one task.

    With --watch it prints a line for each status, and the summary when the task has ended; with --json too, it prints
    the document at each change. Once it has seen the task, it waits out an outage of the server.

    \b
    Exit codes:
      0    the task was printed; with --watch, it ended with success
      1    the server refused, or did not answer
      2    an argument or a setting is wrong
      3    the task that --watch followed ended without success
      130  Ctrl-C

    \b
    Examples:
      taskgate get 65fc73fe-0586-11f1-8b8d-6219b54da7fe
      taskgate get --json 65fc73fe-0586-11f1-8b8d-6219b54da7fe | jq .outputData
      taskgate get --watch --interval 10 65fc73fe-0586-11f1-8b8d-6219b54da7fe && echo done
      TASKGATE_TOKEN_FILE=token.txt \\
        taskgate get --server tasks.internal:8443 --tls-ca ca.crt 65fc73fe-0586-11f1-8b8d-6219b54da7fe
    """
    from taskgate.commands.get import ClientTls, open_client, run_get
    from taskgate.commands.watch import run_watch

    files = ClientTls(ca, cert, key) if tls or ca or cert or key else None
    try:
        with open_client(server, timeout=timeout, tls=files, token=token) as client:
            if watch:
                sys.exit(run_watch(client, task_id, server=server, as_json=as_json, interval=interval))
            sys.exit(run_get(client, task_id, server=server, as_json=as_json))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@main.group(cls=_Taskgate)
def keys() -> None:
    """Manage the keys with which applications get tokens (--auth keys).

    \b
    Examples:
      taskgate keys create dashboard
      taskgate keys create billing --workflow-type invoice --workflow-type refund --json
      taskgate keys disable dashboard
    """


_KEY_SETTINGS = ("auth_store", "log_level", "log_format")

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@keys.command("create")
@with_settings(*_KEY_SETTINGS)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=ROLES[0],
    show_default=True,
    help="'unmasked-reader' also sees the values that --mask hides.",
)
@click.option(
    "--workflow-type",
    "workflow_types",
    multiple=True,
    metavar="TYPE",
    help="Let it read tasks of this workflow type only; repeat for further ones. Default: all.",
)
@_json
def create_key(settings: Settings, name: str, role: str, workflow_types: tuple[str, ...], *, as_json: bool) -> None:
    """Create a key, and print its ID and its secret, which is shown only this once.

    \b
    Examples:
      taskgate keys create dashboard
      taskgate keys create billing --workflow-type invoice --json
    """
    from taskgate.access.roles import Role
    from taskgate.commands.keys import run_create

    run_create(settings, name, role=Role(role), workflow_types=workflow_types, as_json=as_json)


@keys.command("list")
@with_settings(*_KEY_SETTINGS)
@_json
def list_keys(settings: Settings, *, as_json: bool) -> None:
    """Print all keys with their rights. Example: taskgate keys list --json."""
    from taskgate.commands.keys import run_list

    run_list(settings, as_json=as_json)


@keys.command("disable")
@with_settings(*_KEY_SETTINGS)
@click.argument("name")
def disable_key(settings: Settings, name: str) -> None:
    """Refuse the key with this name or ID, and its tokens, within 5 seconds. Example: taskgate keys disable billing."""
    from taskgate.commands.keys import run_set_disabled

    run_set_disabled(settings, name, disabled=True)


@keys.command("enable")
@with_settings(*_KEY_SETTINGS)
@click.argument("name")
def enable_key(settings: Settings, name: str) -> None:
    """Let a disabled key in again. Example: taskgate keys enable billing."""
    from taskgate.commands.keys import run_set_disabled

    run_set_disabled(settings, name, disabled=False)


@keys.command("rotate")
@with_settings(*_KEY_SETTINGS)
@click.argument("name")
@click.option(
    "--keep-former",
    type=click.IntRange(0, 30 * 86400),
    default=86400,
    show_default=True,
    metavar="SECONDS",
    help="How long the former secret stays valid; 0 if it has become known: its tokens are refused, too.",
)
@_json
def rotate_key(settings: Settings, name: str, *, keep_former: int, as_json: bool) -> None:
    """Give the key with this name or ID a new secret. Example: taskgate keys rotate billing --keep-former 0."""
    from taskgate.commands.keys import run_rotate

    run_rotate(settings, name, keep=keep_former, as_json=as_json)


@keys.command("rotate-signing")
@with_settings(*_KEY_SETTINGS)
@click.option("--drop-former", is_flag=True, help="Refuse the tokens of earlier signing keys: one has become known.")
def rotate_signing_key(settings: Settings, *, drop_former: bool) -> None:
    """Sign tokens with a new signing key from now on; running servers follow, and no call fails.

    \b
    Example:
      taskgate keys rotate-signing
    """
    from taskgate.commands.keys import run_rotate_signing

    run_rotate_signing(settings, drop_former=drop_former)
