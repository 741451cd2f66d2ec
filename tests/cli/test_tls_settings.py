"""Settings for TLS that cannot work, and listeners that are open to a network, are refused before anything starts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from support.certificates import Authority
from support.in_process import asked
from support.running import Running
from taskgate.base.addresses import Address
from taskgate.base.errors import SettingsError
from taskgate.base.settings import Settings
from taskgate.commands.exposure import check_exposure

EVERYWHERE = "0.0.0.0"  # noqa: S104 - mostly refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Usable and unusable files."""
    made = tmp_path_factory.mktemp("files")
    authority = Authority()
    authority.server().save(made, "good")
    authority.server().save(made, "other")
    authority.server(ended=timedelta(days=1)).save(made, "expired")
    (made / "ca.crt").write_bytes(authority.pem)
    (made / "text").write_text("no certificate")
    (made / "cut.crt").write_bytes((made / "good.crt").read_bytes()[:300])
    (made / "cut.key").write_bytes((made / "good.key").read_bytes()[:100])
    key = load_pem_private_key((made / "good.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (made / "locked.key").write_bytes(locked)
    return made


def tried(folder: Path, *command: str, **settings: str) -> Result:
    """Run a command in this process, with files of ``folder`` as settings."""
    flags = [part for name, file in settings.items() for part in (f"--{name.replace('_', '-')}", str(folder / file))]
    return asked(*command, *flags, env={"TASKGATE_STORE": f"sqlite:///{folder}/tasks.db"})


@pytest.mark.parametrize("command", [("up",), ("up", "--mode", "proxied"), ("serve",), ("gateway",)], ids=" ".join)
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tls_cert": "good.crt"}, "tls_cert: it needs tls_key"),
        ({"tls_key": "good.key"}, "tls_key: it needs tls_cert"),
        ({"tls_client_ca": "ca.crt"}, "tls_client_ca: it needs tls_cert and tls_key"),
        ({"tls_cert": "none", "tls_key": "good.key"}, "tls_cert: cannot read {}/none: No such file"),
        ({"tls_cert": "good.crt", "tls_key": "none"}, "tls_key: cannot read {}/none: No such file"),
        ({"tls_cert": "good.crt", "tls_key": "."}, "tls_key: cannot read {}: Is a directory"),
        ({"tls_cert": "text", "tls_key": "good.key"}, "tls_cert: {}/text holds no certificate"),
        ({"tls_cert": "cut.crt", "tls_key": "good.key"}, "tls_cert: {}/cut.crt holds no certificate"),
        ({"tls_cert": "good.crt", "tls_key": "cut.key"}, "tls_key: {}/cut.key holds no private key"),
        ({"tls_cert": "good.crt", "tls_key": "good.crt"}, "tls_key: {}/good.crt holds no private key"),
        ({"tls_cert": "good.crt", "tls_key": "locked.key"}, "tls_key: {}/locked.key is protected by a password"),
        (
            {"tls_cert": "good.crt", "tls_key": "other.key"},
            "tls_key: {}/other.key is not the key of the first certificate in {}/good.crt",
        ),
        (
            {"tls_cert": "good.crt", "tls_key": "good.key", "tls_client_ca": "text"},
            "tls_client_ca: {}/text holds no certificate",
        ),
        (
            {"tls_cert": "good.crt", "tls_key": "good.key", "tls_client_ca": "none"},
            "tls_client_ca: cannot read {}/none: No such file",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_one_sentence(
    folder: Path, command: tuple[str, ...], settings: dict[str, str], sentence: str
) -> None:
    """Exit code 2, the setting and the file, for every command that serves or prints."""
    done = tried(folder, *command, **settings)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("taskgate: " + sentence.replace("{}", str(folder)))
    assert done.stderr.count("\n") == 1
    assert not (folder / "tasks.db").exists()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "is an RSA key of 1024 bits; 2048 are the least"),  # noqa: S505 - refused
        (ed25519.Ed25519PrivateKey.generate, "is neither an RSA key nor one of an elliptic curve"),
    ],
    ids=["short", "of another kind"],
)
def test_keys_that_envoy_or_grpc_would_refuse_are_named(tmp_path: Path, make: Callable[[], Any], problem: str) -> None:
    key = make()
    (tmp_path / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "tls.crt").write_bytes(_self_signed(key))
    done = tried(tmp_path, "gateway", tls_cert="tls.crt", tls_key="tls.key")
    assert (done.exit_code, done.stderr) == (2, f"taskgate: tls_key: {tmp_path}/tls.key {problem}\n")


@pytest.mark.parametrize("mode", ["embedded", "proxied"])
@pytest.mark.parametrize("client_ca", [{}, {"tls_client_ca": "ca.crt"}], ids=["", "mutual"])
def test_envoy_accepts_the_printed_configuration(folder: Path, mode: str, client_ca: dict[str, str]) -> None:
    """An expired certificate too: a restart must not be worse than going on."""
    for name in ("good", "expired"):
        files = {"tls_cert": f"{name}.crt", "tls_key": f"{name}.key", **client_ca}
        done = tried(folder, "gateway", "--mode", mode, "--validate", **files)
        assert (done.exit_code, done.stdout) == (0, "Envoy accepts the configuration.\n"), done.stderr
    printed = tried(folder, "gateway", "--mode", mode, **files).stdout
    assert "# Envoy needs the file taskgate-certificate.yaml in its working directory:" in printed
    assert ("# Envoy needs the file taskgate-client-ca.yaml" in printed) == bool(client_ca)
    assert f"filename: {folder}/expired.key" in printed


SECURED = {"tls_cert": "a", "tls_key": "b"}


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1"])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, {"--tls-cert FILE", "--tls-key FILE", "--tls-client-ca FILE", "--insecure"}),
        (SECURED, {"--tls-client-ca FILE", "--insecure"}),
        ({**SECURED, "tls_client_ca": "c"}, set()),
        ({"insecure": True}, set()),
    ],
    ids=["nothing", "TLS", "TLS and authentication", "told so"],
)
def test_listener_beyond_loopback_needs_tls_and_authentication(
    host: str, settings: dict[str, str], named: set[str]
) -> None:
    """Or ``--insecure``; the sentence names the flags that are missing, and no other."""
    try:
        check_exposure(Settings.model_validate(settings), http=Address("127.0.0.1", 1), grpc=Address(host, 2))
    except SettingsError as error:
        sentence = str(error)
        assert sentence.startswith(f"grpc: {Address(host, 2)} is reachable from other machines")
        flags = {"--tls-cert FILE", "--tls-key FILE", "--tls-client-ca FILE", "--insecure"}
        assert {flag for flag in flags if flag in sentence} == named
    else:
        assert not named


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_neither(host: str) -> None:
    settings = Settings(metrics=Address(host, 3))
    check_exposure(settings, http=Address(host, 1), grpc=Address(host, 2))


@pytest.mark.parametrize(
    ("settings", "starts"),
    [(SECURED, False), ({**SECURED, "insecure_metrics": True}, True), ({"insecure": True}, True)],
    ids=["TLS and authentication of the others", "told so", "told so of all"],
)
def test_metrics_beyond_loopback_need_consent_of_their_own(settings: dict[str, Any], starts: bool) -> None:
    """They have neither TLS nor authentication. The consent to show them opens no other listener."""
    secured = Settings.model_validate({**settings, "auth": "keys", "metrics": f"{EVERYWHERE}:9464"})
    listeners = {"http": Address(EVERYWHERE, 1), "grpc": Address("::", 2)}
    if starts:
        check_exposure(secured, **listeners)
    else:
        with pytest.raises(SettingsError, match=r"^metrics: 0\.0\.0\.0:9464 is reachable .*--insecure-metrics \(TASK"):
            check_exposure(secured, **listeners)
    opened = Settings(metrics=Address(EVERYWHERE, 3), insecure_metrics=True)
    with pytest.raises(SettingsError, match=r"^http: "):
        check_exposure(opened, **listeners)


@pytest.mark.parametrize(
    "command",
    [
        ("up", "--http", f"{EVERYWHERE}:0"),
        ("up", "--grpc", f"{EVERYWHERE}:0"),
        ("up", "--mode", "proxied", "--grpc", "[::]:0"),
        ("serve", "--grpc", f"{EVERYWHERE}:0"),
    ],
    ids=" ".join,
)
def test_command_that_would_listen_unprotected_refuses_to_start(folder: Path, command: tuple[str, ...]) -> None:
    done = tried(folder, *command)
    assert done.exit_code == 2
    assert "is reachable from other machines, which needs TLS (--tls-cert FILE --tls-key FILE) and auth" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "tasks.db").exists()


def test_insecure_listener_starts_with_a_warning(tmp_path: Path) -> None:
    """By flag or variable, as a container has it; the warning says what is open."""
    arguments = ("serve", "--store", f"sqlite:///{tmp_path}/tasks.db", "--grpc", f"{EVERYWHERE}:0")
    with Running(
        *arguments, "--drain-delay", "0", "--log-format", "json", env={"TASKGATE_INSECURE": "true"}
    ) as running:
        running.wait_for("no authentication is configured.*nothing is encrypted", in_log=True)
        assert running.stop() == 0


def _self_signed(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "short")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)
