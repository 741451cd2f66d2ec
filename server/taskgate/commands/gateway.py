"""``taskgate gateway``: print the Envoy configuration for these settings, or let Envoy check it."""

import shlex
from collections.abc import Mapping
from dataclasses import replace

import click

from taskgate.base.settings import Settings
from taskgate.commands.checks import check_certificates
from taskgate.commands.up import gateway_settings, with_possible_mode
from taskgate.processes.envoy import EmbeddedService, render, render_secrets, validate
from taskgate.processes.envoy.embedded import environment, module
from taskgate.processes.worker_pool import consecutive_addresses
from taskgate.stores import check_store


def run_gateway(settings: Settings, *, validate_only: bool) -> None:
    """Print the configuration; with ``validate_only``, let Envoy check it and raise GatewayError if it is refused."""
    settings = with_possible_mode(settings)
    embedded = settings.mode == "embedded"
    upstreams = [] if embedded else consecutive_addresses(settings.grpc, settings.workers)
    gateway = gateway_settings(settings, upstreams)
    if embedded:
        check_store(settings.store, settings.layout)  # the service in this configuration will open it
        gateway = replace(gateway, embedded=EmbeddedService(module(), settings.grpc))
    check_certificates(settings)
    text, secrets = render(gateway), render_secrets(gateway.tls)
    if validate_only:
        validate(text, environment() if embedded else {}, secrets)
        click.echo("Envoy accepts the configuration.")
    else:
        comment = (how_to_run() if embedded else "") + how_to_keep(secrets, embedded=embedded)
        click.echo((comment + text).encode(), nl=False)  # a YAML file: UTF-8 in any locale


def how_to_run() -> str:
    """Return a comment with the command that runs Envoy with the service inside, and where it finds Python."""
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment().items())
    return (
        "# The service in this configuration takes its settings from TASKGATE_* variables. To run it:\n"
        f"# {variables} envoy --concurrency 1 -c FILE < /dev/null\n#\n"
    )


def how_to_keep(secrets: Mapping[str, str], *, embedded: bool) -> str:
    """Return a comment with the files from which Envoy learns where its certificates are; empty without TLS."""
    lines = []
    for name, text in secrets.items():
        lines += [f"Envoy needs the file {name} in its working directory:", ""]
        lines += [*(f"  {line}" for line in text.strip().splitlines()), ""]
    if lines and not embedded:
        lines += ["Envoy speaks plain text to the servers behind it: let them listen on loopback, without TLS.", ""]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
