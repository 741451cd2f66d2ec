"""Run Maven on the machine's own Java, or on a wheel's Java with the authorities that the machine trusts.

A Java from a wheel trusts only public authorities. Behind a proxy with a private authority it cannot fetch anything,
while the machine's own Java, pip and npm can.
"""

import os
import re
import shutil
import ssl
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from cryptography.utils import CryptographyDeprecationWarning

from tools.servers import SERVERS, Missing, unpack

_TRUST_STORE = SERVERS / "authorities.p12"
_PASSWORD = "authorities"  # noqa: S105 - the store has public certificates only, but Java wants it to have a password

_CAUSES = (
    r"PKIX path building failed[^\n]*",
    r"UnknownHostException[^\n]*|Unknown host [^\s:]+",
    r"Connection refused[^\n]*|Connect(?:ion)? timed out[^\n]*",
    r"Could not (?:transfer|find) [^\n]+",
)
"""Most specific first: Maven wraps each in several less specific lines."""


_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
"""The full name: if a short name cannot be resolved, Maven does not say why."""


def run_maven(maven: str, goal: str, *options: str, folder: Path, wheels_java: Path) -> None:
    """Run a ``goal`` of the dependency plugin with the program ``maven`` in ``folder``, where a pom.xml is read.

    Maven runs on the machine's own Java, or else on ``wheels_java``. Raises Missing with the root cause.
    """
    environment = dict(os.environ)
    if not _has_java(environment):
        environment["JAVA_HOME"] = str(wheels_java.parent.parent)
        environment["MAVEN_OPTS"] = " ".join(filter(None, [environment.get("MAVEN_OPTS"), *_trust_options()]))
    done = subprocess.run(
        [maven, "--batch-mode", "--no-transfer-progress", "--errors", f"{_PLUGIN}:{goal}", *options],  # with causes
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    if done.returncode:
        raise Missing(_cause(done.stdout + done.stderr))


def find_maven() -> str:
    """Return the machine's own Maven, or Debian's, unpacked below ``.venv``. Raises Missing."""
    return shutil.which("mvn") or _debians_maven()


def _debians_maven() -> str:
    """Return the program, unpacked with all that it needs except a Java. Raises Missing."""
    home = SERVERS / "root" / "usr" / "share" / "maven"
    program = home / "bin" / "mvn"
    if not program.exists():
        if shutil.which("apt-get") is None:
            raise Missing("there is no mvn, and no apt to get one from; please put Maven on PATH")
        print(f"maven: unpacking Debian's into {SERVERS} (10 MB; nothing is installed)")
        unpack("mvn", _packages_of_maven())
        (home / "conf").unlink()  # a link to /etc of the machine
        (home / "conf").symlink_to(SERVERS / "root" / "etc" / "maven")
    return str(program)


def _packages_of_maven() -> list[str]:
    options = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    command = ["/usr/bin/apt-cache", "depends", "--recurse", *options, "maven"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return sorted({name for name in listed if name == "maven" or (name.startswith("lib") and name.endswith("-java"))})


def _has_java(environment: dict[str, str]) -> bool:
    if home := environment.get("JAVA_HOME"):
        return Path(home, "bin", "java").exists()
    java = shutil.which("java")  # macOS has a stub that only says where to get Java
    return java is not None and subprocess.run([java, "-version"], capture_output=True, check=False).returncode == 0


def _trust_options() -> list[str]:
    """Return options that make a Java trust SSL_CERT_FILE or this machine's authorities; none if no file is found."""
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if bundle is None or not Path(bundle).is_file():
        return []
    authorities = _authorities(Path(bundle).read_text(encoding="utf-8", errors="replace"))
    entries = [
        pkcs12.PKCS12Certificate(authority, f"{number}".encode()) for number, authority in enumerate(authorities)
    ]
    _TRUST_STORE.parent.mkdir(parents=True, exist_ok=True)
    _TRUST_STORE.write_bytes(pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(_PASSWORD.encode())))
    return [
        f"-Djavax.net.ssl.trustStore={_TRUST_STORE}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_PASSWORD}",
    ]


def _authorities(bundle: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM file that can be read; a bundle may hold old ones that break today's rules."""
    found = []
    for text in re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", bundle, re.DOTALL):
        with suppress(ValueError), warnings.catch_warnings(action="ignore", category=CryptographyDeprecationWarning):
            found.append(x509.load_pem_x509_certificate(text.encode()))
    return found


def _cause(output: str) -> str:
    """Return what stopped Maven: the root cause, if its output has one, and its first error."""
    error = next((line for line in output.splitlines() if "[ERROR]" in line), output.strip()[-400:]).strip()
    root = next(filter(None, (re.search(pattern, output) for pattern in _CAUSES)), None)
    return error if root is None or root[0] in error else f"{root[0]} ({error})"
