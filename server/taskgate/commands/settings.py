"""``taskgate settings``: print the settings in force and where each value comes from, without secrets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from taskgate.base.errors import SettingsError
from taskgate.base.printable import printable
from taskgate.base.settings import Origin, Settings, is_url, origins
from taskgate.commands.checks import check_settings
from taskgate.stores import masked_url


def run_settings(settings: Settings, config: Path | None, flags: Mapping[str, Any], *, as_json: bool) -> None:
    """Print ``settings``, loaded from ``config`` and ``flags``; then raise SettingsError for what ``up`` refuses."""
    values = settings.model_dump(mode="json")  # without former names
    shown = {name: masked(value) if is_url(name) else value for name, value in values.items()}
    found = origins(settings, config, flags)
    click.echo(_json(shown, found) if as_json else _table(shown, found))
    check_settings(settings, http=settings.http, grpc=settings.grpc)


def masked(url: str) -> str:
    """Return ``url`` with *** for credentials; of one that is no store's, for all that may hold some."""
    try:
        return masked_url(url)
    except SettingsError:
        if "@" in url:
            scheme, separator, _ = url.partition("://")
            return f"{scheme}://***" if separator else "***"
        place, question, _ = url.partition("?")
        return f"{place}?***" if question else place


def _json(values: Mapping[str, Any], found: Mapping[str, Origin]) -> str:
    """Return an object for each setting: ``value``, ``source`` and, where they say more, ``name`` and ``file``."""
    settings = {}
    for name, value in values.items():
        origin = found[name]
        more = {"name": origin.name, "file": printable(origin.file)}  # a path may hold any bytes
        settings[name] = {"value": value, "source": origin.source} | {key: text for key, text in more.items() if text}
    return msgspec.json.format(msgspec.json.encode(settings)).decode()


def _table(values: Mapping[str, Any], found: Mapping[str, Origin]) -> str:
    rows = [("setting", "value", "from")]
    rows += [(name, printable(_text(value)), printable(str(found[name]))) for name, value in values.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows)


def _text(value: Any) -> str:
    """Return a value as a flag or a variable would have it."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return str(value).removesuffix(".0")
        case list():
            return ",".join(map(str, value))
        case dict():
            return ",".join(f"{key}={item}" for key, item in value.items())
    return str(value)
