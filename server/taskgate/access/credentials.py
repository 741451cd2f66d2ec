"""Find the token among the headers of a call."""

_SCHEME = "bearer "


def token_in(x_authorization: str | None, authorization: str | None) -> str:
    """Return the bare token of ``x-authorization``, or what follows ``Bearer`` in ``authorization``; else ``""``.

    Released Conductor SDKs send the former, most other clients the latter (RFC 6750, section 2.1). Of two different
    tokens neither is taken: what is returned then is none. Envoy would verify both.
    """
    bearer = ""
    if authorization is not None and authorization[: len(_SCHEME)].lower() == _SCHEME:
        bearer = authorization[len(_SCHEME) :].strip()
    if x_authorization is None:
        return bearer
    return x_authorization if bearer in {"", x_authorization} else f"{x_authorization},{bearer}"
