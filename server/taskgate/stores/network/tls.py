"""TLS to a database: make an SSL context from the files that a URL names."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from taskgate.base.errors import SettingsError
from taskgate.stores.network.url_parts import Check, file, text


class TlsNames(NamedTuple):
    """Names of an engine's parameters for TLS; empty for those that it does not have."""

    ca: str
    cert: str
    key: str
    crl: str = ""
    password: str = ""

    def parameters(self) -> dict[str, Check]:
        """Return the entries for the engine's ``Grammar``."""
        return {name: text if name == self.password else file for name in self if name}


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM; an empty name means no file. Without ``ca_file``, the system's authorities are trusted."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    """Empty if the key is in the certificate's file."""
    crl_file: str = ""
    key_password: str = field(default="", repr=False)
    check_names: bool = True
    """Whether a certificate must match the name or address of the server."""

    @classmethod
    def of(cls, parameters: Mapping[str, str], names: TlsNames, *, check_names: bool = True) -> Self:
        """Create it from the parameters of a URL.

        Raises SettingsError for a key without a certificate, and for files that OpenSSL cannot use: the first
        connection would be too late to report them.
        """
        ca, cert, key, crl, password = (parameters.get(name, "") for name in names)
        if key and not cert:
            raise SettingsError(f"store: {names.key} needs {names.cert}")
        own = f"{names.cert} and {names.key} are" if key else f"{names.cert} is"
        secret = f"{names.password} is its password, if it has one" if names.password else "the key has no password"
        for part, fault in (
            (cls(ca), f"{names.ca} is not a file of PEM certificates that can be read"),
            (cls("", cert, key, "", password), f"{own} not a certificate and its key, in PEM; {secret}"),
            (cls(crl_file=crl), f"{names.crl} is not a list of revoked certificates in PEM that can be read"),
        ):
            try:
                if part != cls():  # an empty one would load the system's authorities in vain
                    part.context()
            except (OSError, ValueError) as error:  # SSLError is an OSError
                raise SettingsError(f"store: {fault}") from error
        return cls(ca, cert, key, crl, password, check_names)

    def context(self) -> ssl.SSLContext:
        """Return a client's context that always verifies. Raises OSError or ValueError for files that cannot be used.

        Make a new one for each connection, so that renewed files take effect.
        """
        context = ssl.create_default_context(cafile=self.ca_file or None)
        context.check_hostname = self.check_names
        if self.cert_file:
            # Without a password, an encrypted key would make OpenSSL ask on the terminal.
            context.load_cert_chain(self.cert_file, self.key_file or None, password=self.key_password)
        if self.crl_file:
            context.load_verify_locations(cafile=self.crl_file)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
        return context
