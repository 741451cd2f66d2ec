"""Every setting, defined once: its name, type, default and meaning.

Precedence: command-line flag, ``TASKGATE_*`` environment variable, TOML file (``--config`` or ``TASKGATE_CONFIG``),
default. An unusable value raises ``SettingsError``, a sentence that names the key, before anything starts.
"""

import os
import re
import socket
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.layout import Layout
from taskgate.base.printable import is_text
from taskgate.base.task_id import TaskIdFormat


def _address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


# NoDecode: the variable holds HOST:PORT, not the JSON that pydantic-settings expects for a tuple.
AddressSetting = Annotated[Address, NoDecode, BeforeValidator(_address), PlainSerializer(str)]


_MODE_OF_TRANSPORT = {"envoy": "embedded", "grpcio": "proxied"}


class Settings(BaseSettings):
    """The settings of one taskgate command. Field descriptions are the help texts of the command line."""

    model_config = SettingsConfigDict(env_prefix="TASKGATE_", extra="forbid", frozen=True, validate_default=True)

    store: str = Field(
        default="sqlite:///tasks.db",
        description="URL of the database that holds the tasks: sqlite:///relative.db, sqlite:////absolute/path.db,"
        " postgresql://user@host:5432/database, mysql://user@host:3306/database, redis://host:6379/0,"
        " redis+sentinel://host:26379/name/0, redis+cluster://host:6379 or cassandra://host:9042/keyspace. For a URL"
        " with a password use the variable: other users can see flags.",
        json_schema_extra={"metavar": "URL"},
    )
    layout: Layout = Field(
        default=Layout.TASKGATE,
        description="What the store holds: 'taskgate' for what 'taskgate import' wrote, 'conductor' for Conductor's own"
        " database, which is only read.",
    )
    task_id_format: TaskIdFormat = Field(
        default=TaskIdFormat.UUID,
        description="The task IDs to accept: 'uuid', or 'any' if Conductor has its own ID generator.",
    )
    mode: Literal["embedded", "proxied"] = Field(
        default="embedded",
        description="'embedded' runs the service inside Envoy, one process for each worker; 'proxied' runs one Envoy in"
        " front of gRPC servers.",
    )
    transport: Literal["envoy", "grpcio"] | None = Field(
        default=None,
        exclude=True,  # workers get the mode
        description="The former name of --mode: 'envoy' means embedded, 'grpcio' proxied.",
        json_schema_extra={"metavar": "[envoy|grpcio]"},
    )
    http: AddressSetting = Field(
        default=Address("127.0.0.1", 8080),
        description="HOST:PORT on which Envoy listens for REST and gRPC.",
    )
    grpc: AddressSetting = Field(
        default=Address("127.0.0.1", 50051),
        description="HOST:PORT of the gRPC server itself; with 'up --mode proxied --workers N', the first of N"
        " consecutive ports.",
    )
    workers: int = Field(default=1, ge=1, le=256, description="How many server processes to run.")
    request_timeout: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="Seconds within which an answer must begin, even if the caller's deadline is later.",
    )
    in_flight_mib: int = Field(
        default=512,
        ge=64,
        le=65536,
        json_schema_extra={"metavar": "MIB"},
        description="MiB of large answers (over 64 KiB each) that one process may have in flight; one client address"
        " may use half of it, one connection a quarter. Further answers wait for 5 s, then fail as retryable.",
    )
    drain_delay: float = Field(
        default=2.0,
        ge=0,
        le=600,
        description="Seconds at shutdown from failing health checks to refusing calls, so that load balancers notice.",
    )
    shutdown_grace: float = Field(
        default=20.0, ge=0, le=3600, description="Seconds at shutdown for calls in flight to finish."
    )
    instance: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="The name of this node in REST error bodies.",
        json_schema_extra={"metavar": "NAME"},
    )
    access_log: str = Field(
        default="",
        description="File, or 'stdout', to which Envoy writes a JSON line for each request, including those that it"
        " answers itself. The service's own log always has a line for each call.",
        json_schema_extra={"metavar": "FILE"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest severity of log lines to write."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="'json' lines, 'console' text, or 'auto': console on a terminal."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_former_name(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Set the mode from ``transport``, its name in earlier versions; refuse the two together."""
        former = values.get("transport")
        mode = _MODE_OF_TRANSPORT.get(former) if isinstance(former, str) else None  # a file may hold any type
        if mode is None:
            return values
        if "mode" in values:
            raise ValueError("transport: it is the former name of mode; set mode alone")
        return {**values, "mode": mode}

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        """Refuse values that are not UTF-8 text; JSON could not carry them to a worker."""
        if isinstance(value, str) and not is_text(value):
            raise ValueError("it is not text in UTF-8; in a path, other bytes are written %FF")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, that over the file; .env files and secrets folders are not read."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def metavar(name: str) -> str:
    """The placeholder for the value of setting ``name`` in help texts: its choices, or a word for its type."""
    field = Settings.model_fields[name]
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"[{'|'.join(choice.value for choice in kind)}]"
    if get_origin(kind) is Literal:
        return f"[{'|'.join(get_args(kind))}]"
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["metavar"])
    return {Address: "HOST:PORT", int: "NUMBER", float: "SECONDS"}[cast("type", kind)]


def load_settings(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Load settings from ``flags`` (only those given), the environment and the TOML file.

    Raises:
        SettingsError: a value, a key of the file, or the file itself is wrong.
    """
    if config is None and (from_environment := os.environ.get("TASKGATE_CONFIG")):
        config = Path(from_environment)
    if config is not None and not os.path.isfile(config):  # noqa: PTH113 - Path.is_file raises for overlong paths
        raise SettingsError(f"config: the file {config} does not exist")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return FromFile(**flags)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(dict(detail), flags) for detail in error.errors())) from error
    except (SourceError, ValueError) as error:  # the TOML or an environment value could not be parsed at all
        raise SettingsError(f"config: {config or 'environment'}: {error}") from error
    except OSError as error:  # such as a lack of permission to read it
        raise SettingsError(f"config: {config}: {error.strerror}") from error


# Kubernetes sets variables of this kind in every container if a service is called taskgate.
_KUBERNETES = re.compile(r"TASKGATE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)?)")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names of variables that begin with TASKGATE_ but are no setting: misspelt, or another program's."""
    known = {"TASKGATE_CONFIG", *(f"TASKGATE_{name.upper()}" for name in Settings.model_fields)}
    # pydantic-settings ignores the case of names.
    ours = (name for name in environment if name.upper().startswith("TASKGATE_") and name.upper() not in known)
    return sorted(name for name in ours if not _KUBERNETES.fullmatch(name))


def _sentence(detail: dict[str, Any], flags: Mapping[str, Any]) -> str:
    """Format one pydantic error as ``key (where it was set): what is wrong``."""
    problem: str = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:  # an error about several settings together
        return problem
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown setting"
    if key in flags:
        origin = f" (--{key.replace('_', '-')})"
    elif f"TASKGATE_{key.upper()}" in os.environ:
        origin = f" (TASKGATE_{key.upper()})"
    else:
        origin = ""
    return f"{key}{origin}: {problem}"
