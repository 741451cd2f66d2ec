"""Every setting, defined once: its name, type, default and meaning.

Precedence: command-line flag, ``TASKGATE_*`` environment variable, the file that a ``TASKGATE_*_FILE`` variable names,
TOML file (``--config`` or ``TASKGATE_CONFIG``), default. An unusable value raises ``SettingsError``, a sentence that
names the key, before anything starts.
"""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args, get_origin

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
from taskgate.base.key_patterns import parse_patterns
from taskgate.base.layout import Layout
from taskgate.base.origins import ANY_ORIGIN, parse_origins
from taskgate.base.printable import is_text
from taskgate.base.task_id import TaskIdFormat
from taskgate.base.variable_files import (
    VariableFilesSource,
    file_variable,
    metavar_of,
    refuse_both,
    variable,
    variables,
)


def _address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


# NoDecode: the variable holds HOST:PORT, not the JSON that pydantic-settings expects for a tuple.
AddressSetting = Annotated[Address, NoDecode, BeforeValidator(_address), PlainSerializer(str)]


# NoDecode: as above; the variable holds patterns with commas between them.
PatternsSetting = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_patterns)]


# NoDecode: as above.
OriginsSetting = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_origins)]


def _roles(value: object) -> object:
    """Parse ``VALUE=ROLE,...``, the form of flags and variables; a file may also hold a table."""
    if isinstance(value, str):
        pairs = [pair.strip().rpartition("=") for pair in value.split(",") if pair.strip()]
        if any(not name or not role for name, _, role in pairs):
            raise ValueError("expected VALUE=ROLE, as in task-readers=reader,task-admins=unmasked-reader")
        value = {name.strip(): role.strip() for name, _, role in pairs}
    if isinstance(value, dict):
        for role in value.values():
            if role not in ROLES:
                raise ValueError(f"{role!r} is no role; the roles are {' and '.join(ROLES)}")
    return value


ROLES = ("reader", "unmasked-reader")
"""The names of the roles, see ``taskgate.access.roles``."""

# NoDecode: as above.
RolesSetting = Annotated[dict[str, str], NoDecode, BeforeValidator(_roles)]


def _address_or_none(value: object) -> object:
    return _address(value) if value != "" else None


OptionalAddressSetting = Annotated[
    Address | None,
    NoDecode,
    BeforeValidator(_address_or_none),
    PlainSerializer(lambda address: None if address is None else str(address)),
]
"""An address, or "" for none."""

_MODE_OF_TRANSPORT = {"envoy": "embedded", "grpcio": "proxied"}


class Settings(BaseSettings):
    """The settings of one taskgate command. Field descriptions are the help texts of the command line."""

    model_config = SettingsConfigDict(env_prefix="TASKGATE_", extra="forbid", frozen=True, validate_default=True)

    store: str = Field(
        default="sqlite:///tasks.db",
        description="URL of the database that holds the tasks: sqlite:///relative.db, sqlite:////absolute/path.db,"
        " postgresql://user@host:5432/database, mysql://user@host:3306/database, redis://host:6379/0,"
        " redis+sentinel://host:26379/name/0, redis+cluster://host:6379 or cassandra://host:9042/keyspace. For a URL"
        " with a password use the variable or TASKGATE_STORE_FILE: other users can see flags.",
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
        description="HOST:PORT for gRPC: a second address of Envoy in mode embedded; else the server's own port, with"
        " 'up --mode proxied --workers N' the first of N consecutive ports.",
    )
    tls_cert: str = Field(
        default="",
        description="PEM file of the server's certificate, followed by those of its authorities: serve TLS on every"
        " listener. A replaced file is used without a restart.",
        json_schema_extra={"metavar": "FILE"},
    )
    tls_key: str = Field(
        default="",
        description="PEM file of the certificate's private key, without a password.",
        json_schema_extra={"metavar": "FILE"},
    )
    tls_client_ca: str = Field(
        default="",
        description="PEM file of the authorities of callers: refuse callers without a certificate from one of them.",
        json_schema_extra={"metavar": "FILE"},
    )
    insecure: bool = Field(
        default=False,
        description="Listen beyond loopback without TLS or without authentication.",
    )
    workers: int = Field(default=1, ge=1, le=256, description="How many server processes to run.")
    auth: Literal["off", "keys", "jwt"] = Field(
        default="off",
        description="Who may read: 'off': everyone; 'keys': callers with a token that POST /api/token gave for a key of"
        " 'taskgate keys'; 'jwt': callers with a token of an identity provider, see --jwks.",
    )
    auth_store: str = Field(
        default="sqlite:///taskgate-keys.db",
        description="URL of the database that holds the keys for --auth keys, apart from the tasks: sqlite:///file.db,"
        " postgresql://user@host:5432/database or redis://host:6379/0. All nodes of a service share one.",
        json_schema_extra={"metavar": "URL"},
    )
    token_lifetime: float = Field(
        default=7200.0,
        ge=1,
        le=30 * 86400,
        description="Seconds for which a token is valid, with --auth keys. SDKs renew theirs after 30 to 60 minutes.",
    )
    jwks: str = Field(
        default="",
        description="Keys of the identity provider, for --auth jwt: https URL or file of its JSON Web Key Set.",
        json_schema_extra={"metavar": "URL"},
    )
    jwt_issuer: str = Field(
        default="",
        description="What the claim 'iss' of tokens must be, for --auth jwt.",
        json_schema_extra={"metavar": "ISSUER"},
    )
    jwt_audience: str = Field(
        default="",
        description="What the claim 'aud' of tokens must be or hold, for --auth jwt.",
        json_schema_extra={"metavar": "AUDIENCE"},
    )
    jwt_role_claim: str = Field(
        default="",
        description="The claim that holds roles, such as roles or realm_access.roles, for --auth jwt. Without it, every"
        " valid token may read as 'reader'.",
        json_schema_extra={"metavar": "CLAIM"},
    )
    jwt_roles: RolesSetting = Field(
        default={role: role for role in ROLES},
        description="The role that a value of that claim gives: VALUE=reader or VALUE=unmasked-reader, separated by"
        " commas. Tokens with none of the values may read nothing.",
        json_schema_extra={"metavar": "VALUE=ROLE,..."},
    )
    reflection: Literal["on", "off"] = Field(
        default="on", description="Whether gRPC reflection describes the service to everyone, without a token."
    )
    docs: Literal["on", "off"] = Field(
        default="on", description="Whether /docs and /openapi.json describe REST to everyone, without a token."
    )
    cors_origins: OriginsSetting = Field(
        default=(),
        description="Origins of web pages, such as https://tools.example.org, that may read answers in a browser (CORS)"
        " and make gRPC calls by gRPC-Web; with --auth, '*' allows every page. The flag may be repeated.",
        json_schema_extra={"metavar": "ORIGIN,..."},
    )
    trusted_hops: int = Field(
        default=0,
        ge=0,
        le=100,
        description="How many proxies stand in front of Envoy, each of which adds its caller's address to"
        " x-forwarded-for: the caller is the one that the first of them names. 0: Envoy's own caller.",
    )
    request_timeout: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="Seconds within which an answer must begin, even if the caller's deadline is later.",
    )
    rate_limit: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        json_schema_extra={"metavar": "CALLS"},
        description="Calls that one address may make in a second through each Envoy process; further ones get 429. 0 is"
        " no limit.",
    )
    in_flight_mib: int = Field(
        default=512,
        ge=64,
        le=65536,
        json_schema_extra={"metavar": "MIB"},
        description="MiB of large answers (over 64 KiB each) that one process may have in flight; one client address"
        " may use half of it, one connection a quarter. Further answers wait for 5 s, then fail as retryable.",
    )
    mask: PatternsSetting = Field(
        default=(),
        description='Patterns of keys, such as password,*token*, whose values are shown as "***" at any depth of'
        " inputData and outputData; ASCII letters match in either case. The flag may be repeated.",
        json_schema_extra={"metavar": "PATTERN,..."},
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
    metrics: OptionalAddressSetting = Field(
        default=None,
        description="HOST:PORT on which /metrics shows figures of all processes to Prometheus; they hold no content of"
        " tasks.",
        json_schema_extra={"metavar": "HOST:PORT"},
    )
    insecure_metrics: bool = Field(
        default=False,
        description="Show the figures beyond loopback; they have neither TLS nor authentication. --insecure does too.",
    )
    otlp_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[!-~]+)?$",
        description="URL of an OpenTelemetry collector, such as http://127.0.0.1:4318, to which traces of calls are"
        " sent by OTLP over HTTP. Needs the extra 'tracing'; OTEL_EXPORTER_OTLP_HEADERS and the like apply.",
        json_schema_extra={"metavar": "URL"},
    )
    trace_ratio: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="The fraction (0 to 1) of calls to trace among those without a trace from the caller.",
        json_schema_extra={"metavar": "RATIO"},
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
            raise ValueError("transport is the former name of mode; set only mode")
        return {**values, "mode": mode}

    @model_validator(mode="after")
    def _has_what_jwt_needs(self) -> Self:
        missing = [name for name in ("jwks", "jwt_issuer", "jwt_audience") if not getattr(self, name)]
        if self.auth == "jwt" and missing:
            raise ValueError(f"auth: jwt also needs {', '.join(missing)}, to take only tokens made for this service")
        return self

    @model_validator(mode="after")
    def _shows_pages_nothing_without_a_token(self) -> Self:
        if ANY_ORIGIN in self.cors_origins and self.auth == "off":
            raise ValueError(
                "cors_origins: * needs --auth keys or jwt: without tokens, every web page that a person opens could"
                " read tasks through the browser. Or name the origins, as in https://tools.example.org"
            )
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        """Refuse values that are not UTF-8 text; JSON could not carry them to a worker."""
        texts = value if isinstance(value, list | tuple) else (value,)
        if not all(is_text(text) for text in texts if isinstance(text, str)):
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
        """Flags win over variables, these over the files that variables name, these over the TOML file.

        .env files and secrets folders are not read.
        """
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, VariableFilesSource(settings_cls), TomlConfigSettingsSource(settings_cls)


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


def is_url(name: str) -> bool:
    """Whether the value of setting ``name`` is a URL, which may hold a password."""
    return metavar_of(Settings.model_fields[name]) == "URL"


def load_settings(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Load settings from ``flags`` (only those given), the environment and the TOML file.

    Raises:
        SettingsError: a value, a key of the file, or the file itself is wrong.
    """
    config = config_file(config)
    refuse_both(Settings.model_fields)
    if config is not None and not os.path.isfile(config):  # noqa: PTH113 - Path.is_file raises for overlong paths
        raise SettingsError(f"config: the file {config} does not exist")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return FromFile(**flags)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(dict(detail), flags) for detail in error.errors())) from error
    except SettingsError:  # a file that a variable names cannot be used
        raise
    except (SourceError, ValueError) as error:  # the TOML or an environment value could not be parsed at all
        raise SettingsError(f"config: {config or 'environment'}: {error}") from error
    except RecursionError as error:
        raise SettingsError(f"config: {config or 'environment'}: a value is nested too deep") from error
    except OSError as error:  # such as a lack of permission to read it
        raise SettingsError(f"config: {config}: {error.strerror}") from error


def config_file(config: Path | None) -> Path | None:
    """Return the TOML file: ``config``, which is that of the command line, or the one that TASKGATE_CONFIG names."""
    from_environment = os.environ.get("TASKGATE_CONFIG")
    return Path(from_environment) if config is None and from_environment else config


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: ``source`` is flag, variable, file, config or default.

    ``name`` is the flag or the variable, ``file`` the file that the variable names or the TOML file; else empty.
    """

    source: Literal["flag", "variable", "file", "config", "default"]
    name: str = ""
    file: str = ""

    def __str__(self) -> str:
        """Return it as one phrase."""
        if self.source == "file":
            return f"{self.name} ({self.file})"
        return self.name or self.file or self.source


def origins(settings: Settings, config: Path | None, flags: Mapping[str, Any]) -> dict[str, Origin]:
    """Return where each of ``settings`` comes from; they are what ``load_settings`` made of the other two arguments."""
    outside = variables()
    found = {name: _set_outside(name, flags, outside) for name in Settings.model_fields}
    if settings.transport is not None:
        found["mode"] = found["transport"]  # its former name
    return {
        name: origin
        or (Origin("config", file=str(config_file(config))) if name in settings.model_fields_set else Origin("default"))
        for name, origin in found.items()
    }


def _set_outside(name: str, flags: Mapping[str, Any], outside: Mapping[str, str]) -> Origin | None:
    """Return the flag or the variable (of ``outside``) that sets ``name``, whether or not its value can be used."""
    if name in flags:
        return Origin("flag", f"--{name.replace('_', '-')}")
    if variable(name) in outside:
        return Origin("variable", variable(name))
    file = outside.get(file_variable(name))
    return None if file is None else Origin("file", file_variable(name), file)


class _OfSupervisor(Settings):
    """Settings as a supervisor has loaded them, without a look at variables and files."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given alone: variables may hold a former name, and name files that are gone."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def settings_of_supervisor(text: str | bytes) -> Settings:
    """Return the settings that a supervisor hands to its process, as ``Settings.model_dump_json`` has written them."""
    return _OfSupervisor.model_validate_json(text)


# Kubernetes sets variables of this kind in every container if a service is called taskgate.
_KUBERNETES = re.compile(r"TASKGATE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)?)")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names of variables that begin with TASKGATE_ but are no setting: misspelt, or another program's."""
    names = {*Settings.model_fields, "token"}  # of 'taskgate get'
    known = {"TASKGATE_CONFIG", *map(variable, names), *map(file_variable, names)}
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
    origin = _set_outside(key, flags, variables())
    return f"{key} ({origin.name}): {problem}" if origin else f"{key}: {problem}"
