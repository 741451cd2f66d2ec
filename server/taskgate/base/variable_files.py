"""Read settings from the files that ``TASKGATE_<SETTING>_FILE`` variables name, as orchestrators mount secrets."""

import os
from collections.abc import Iterable
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from taskgate.base.errors import SettingsError

PREFIX: Final = "TASKGATE_"

_MOST_BYTES: Final = 64 << 10


def variable(name: str) -> str:
    """Return the environment variable of the setting ``name``."""
    return f"{PREFIX}{name.upper()}"


def file_variable(name: str) -> str:
    """Return the variable that names a file with the value of the setting ``name``."""
    return f"{variable(name)}_FILE"


def variables() -> dict[str, str]:
    """Return the TASKGATE_ variables by their names in capitals: pydantic-settings reads them in any case."""
    named = ((name.upper(), value) for name, value in os.environ.items())
    return {name: value for name, value in named if name.startswith(PREFIX)}


def metavar_of(field: FieldInfo) -> str:
    """Return the word for the value of a setting that its declaration has, or an empty text."""
    extra = field.json_schema_extra
    return str(extra.get("metavar", "")) if isinstance(extra, dict) else ""


class VariableFilesSource(PydanticBaseSettingsSource):
    """The source that comes after flags and variables: it reads no file for a setting that has a value from these."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._variables = variables()

    def __call__(self) -> dict[str, Any]:
        """Return the values by setting. Raises SettingsError for a file that cannot be used."""
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, is_complex = self.get_field_value(field, name)
            if value is not None:
                values[key] = self.prepare_field_value(name, field, value, is_complex)
        return values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the text of the file or None, the setting's name, and False: the value is not known to be JSON."""
        path = self._variables.get(file_variable(field_name))
        if path is None or field_name in self.current_state:
            return None, field_name, False
        if metavar_of(field) == "FILE":
            # What is in the file would be taken for a path, and shown: a private key, perhaps.
            raise SettingsError(f"{field_name}: {variable(field_name)} takes the path, not {file_variable(field_name)}")
        return _read(field_name, path), field_name, False


def refuse_both(names: Iterable[str]) -> None:
    """Raise SettingsError if a value and a file are both set for one of the settings ``names``."""
    found = variables()
    for name in names:
        both = variable(name), file_variable(name)
        if all(each in found for each in both):
            raise SettingsError(f"{name}: {both[0]} and {both[1]} are both set; set one of them")


def read_variable(name: str) -> str | None:
    """Return the value of ``name``, which is no setting, from its variable or the file that one names, or None.

    Raises SettingsError.
    """
    refuse_both([name])
    found = variables()
    if (path := found.get(file_variable(name))) is not None:
        return _read(name, path)
    return found.get(variable(name))


def _read(name: str, path: str) -> str:
    """Return the text of the file at ``path`` without the newline at its end.

    A refusal shows an absolute path alone: what is none may be the secret itself.
    """
    origin = f"{name} ({file_variable(name)})"
    shown = path if path.startswith("/") else "the file that it names"
    if not path:
        raise SettingsError(f"{origin}: it names no file")
    if "://" in path:
        raise SettingsError(f"{origin}: it holds a URL, not the path of a file; {variable(name)} takes a URL")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path would raise for other reasons
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{origin}: cannot read {shown}: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise SettingsError(f"{origin}: {shown} is larger than {_MOST_BYTES >> 10} KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{origin}: {shown} is not text in UTF-8") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SettingsError(f"{origin}: {shown} is empty")
    if len(text.splitlines()) > 1:
        raise SettingsError(f"{origin}: {shown} has more than one line")
    return text
