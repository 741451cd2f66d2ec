"""Settings: the TOML file, and the values of flags and variables."""

from fuzz.target import Choices, Target, folder
from taskgate.access.gate import check_access
from taskgate.base.errors import SettingsError
from taskgate.base.settings import Settings, load_settings

_NAMES = tuple(Settings.model_fields)


def load_any(data: bytes) -> None:
    """A file or a value is refused in words that name the setting, or gives settings that a worker can be sent."""
    choices = Choices(data)
    chosen = choices.number(len(_NAMES) + 1)
    rest = choices.rest()
    config, flags = None, {}
    if chosen == len(_NAMES):
        config = folder() / "taskgate.toml"
        config.write_bytes(rest)
    else:
        flags = {_NAMES[chosen]: rest.decode(errors="surrogateescape")}
    try:
        settings = load_settings(config, flags)
        check_access(settings)
    except SettingsError as refused:
        assert str(refused)
        assert config or str(refused).startswith(("config", *flags)) or chosen == _NAMES.index("auth"), refused
        return
    assert Settings.model_validate_json(settings.model_dump_json()).model_dump() == settings.model_dump()


TARGETS = (
    Target(
        "settings",
        load_any,
        [
            bytes([len(_NAMES)]) + b'workers = 2\nmask = ["a", "b"]\nhttp = "127.0.0.1:1"\n[jwt_roles]\na = "reader"\n',
            bytes([len(_NAMES)]) + b"workers = [[1]]\nhttp = {a = 1}\nstore = 1\nauth = 1979-05-27T07:32:00Z",
            bytes([len(_NAMES)]) + b'auth = "jwt"\njwks = "https://h/jwks"\njwt_issuer = "i"\njwt_audience = "a"\n',
            bytes([len(_NAMES)]) + b'auth = "keys"\nauth_store = "redis://h:1/0"\ntoken_lifetime = 60\n',
            *(bytes([len(_NAMES)]) + b"mask = " + deep for deep in (b"[" * 2000, b"{a=" * 2000, b"9" * 5000)),
            bytes([len(_NAMES)]) + b"a." * 5000 + b"a = 1",
            *(bytes([number]) + value for number in range(len(_NAMES)) for value in (b"1", b"[::1]:80", b"a=reader,b")),
        ],
        [
            *(b" = ", b"[", b"]", b'"', b"'''", b"{", b"}", b"\n", b",", b"=", b":", b"nan", b"inf", b"-1", b"1e999"),
            *(b"[" * 2000, b"{a=" * 2000, b"9" * 5000, b"a." * 1000, b"\xff", b"\0", b"1979-05-27", b"0x", b"\\u0000"),
            *(f"{name} = ".encode() for name in _NAMES),
            *(b"envoy", b"keys", b"jwt", b"reader", b"conductor", b"127.0.0.1:1", b"*a*", b"[z-a]"),
        ],
        16_384,
        examples=15,
    ),
)
