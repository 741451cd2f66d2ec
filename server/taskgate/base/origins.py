"""Check the origins of web pages that ``--cors-origins`` takes."""

import ipaddress
import re

ANY_ORIGIN = "*"
"""What stands for every origin."""

MAX_ORIGINS = 100

_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_LIKE = "as in https://tools.example.org or http://localhost:3000"


def parse_origins(value: object) -> tuple[str, ...]:
    """Return the origins of a text, or of a list of texts, in which commas separate origins, as browsers send them.

    Raises ValueError, a clause that says what is wrong with one of them.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"it is not a list of origins, {_LIKE}")
    if texts in ([""], [], ()):
        return ()
    origins = tuple(dict.fromkeys(_origin(origin.strip()) for text in texts for origin in text.split(",")))
    if len(origins) > MAX_ORIGINS:
        raise ValueError(f"there are {len(origins)} origins; at most {MAX_ORIGINS} are possible")
    if ANY_ORIGIN in origins and len(origins) > 1:
        raise ValueError(f"{ANY_ORIGIN} stands for every origin; give it alone, or leave it out")
    return origins


def _origin(text: str) -> str:
    """Return ``text`` in lower case and without its scheme's own port."""
    if text == ANY_ORIGIN:
        return text
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(_fault(text))
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if port is not None and not 0 < int(port) <= _MAX_PORT:
        raise ValueError(f"{text}: {port} is no port; the last is {_MAX_PORT}")
    if host.startswith("["):
        host = f"[{_ipv6(text, host[1:-1])}]"
    return f"{scheme}://{host}" + ("" if port is None or int(port) == _DEFAULT_PORTS.get(scheme) else f":{int(port)}")


def _ipv6(text: str, host: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise ValueError(f"{text}: {host} is no IPv6 address") from None


def _fault(text: str) -> str:
    form = f"write scheme://host[:port], {_LIKE}"
    faults = (
        (not text, f"an origin is empty; leave it out or name one, {_LIKE}"),
        (text.lower() == "null", "null is what every page without an origin sends, so it names none of them"),
        ("://" not in text, f"the origin {text!a} has no scheme; {form}"),
        (ANY_ORIGIN in text, f"the origin {text!a} is a pattern; name each, or give {ANY_ORIGIN} for every origin"),
        (not text.isascii(), f"the host in {text!a} is not ASCII; write it in Punycode (xn--...), as browsers send it"),
        (any(mark in text.partition("://")[2] for mark in "/?#"), f"the origin {text!a} has a path; {form}"),
        (True, f"{text!a} is no origin; {form}"),
    )
    return next(sentence for wrong, sentence in faults if wrong)
