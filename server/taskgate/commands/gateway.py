"""``taskgate gateway``: the Envoy configuration that these settings make, printed or checked."""

import click

from taskgate.commands.up import gateway_settings
from taskgate.gateway import render, validate
from taskgate.settings import Settings
from taskgate.workers import consecutive_addresses


def run_gateway(settings: Settings, *, validate_only: bool) -> None:
    """Print the configuration; with ``validate_only``, have Envoy check it. Raises GatewayError if it refuses."""
    text = render(gateway_settings(settings, consecutive_addresses(settings.grpc, settings.workers)))
    if validate_only:
        validate(text)
        click.echo("Envoy accepts the configuration.")
    else:
        click.echo(text, nl=False)
