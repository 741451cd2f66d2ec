"""HOST:PORT read and written, and whether a server listens there."""

import socket

import pytest

from taskgate.base.addresses import Address, check_port_free, network_of
from taskgate.base.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        ("localhost:65535", Address("localhost", 65535)),
    ],
)
def test_address_is_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "::1:80",
        "host",
        "host:",
        "host:x",
        "host:-1",
        "host:٣",
        "a:b:1",
        "[::1]",
        "[]:1",
        "[:1",
        "]:1",
        "[[::1]]:1",
        "a]:1",
    ],
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Address.parse(text)


def test_port_above_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="has a port above 65535"):
        Address.parse("127.0.0.1:65536")


@pytest.mark.parametrize("host", ["hé..x", "a" * 80, "a\0b"])
def test_host_that_nothing_can_look_up_is_refused(host: str) -> None:
    """An empty label, one of over 63 bytes, a byte that ends names elsewhere."""
    with pytest.raises(ValueError, match="does not begin with a valid host name"):
        Address.parse(f"{host}:0")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_taken_port_is_refused_with_setting_and_address(host: str) -> None:
    """Also where the listener would share it, as gRPC and Envoy do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((host, 0))
        taken.listen()
        address = Address(host, taken.getsockname()[1])
        with pytest.raises(SettingsError) as refused:
            check_port_free(address, key="http")
        assert str(refused.value).startswith(f"http: cannot listen on {address}: ")


def test_free_port_is_accepted_and_left_free() -> None:
    """Looking does not take it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", probe.getsockname()[1])
    check_port_free(address, key="http")
    with socket.socket() as listener:
        listener.bind(address)


def test_port_zero_is_always_free() -> None:
    check_port_free(Address("127.0.0.1", 0), key="http")


def test_connections_that_have_ended_do_not_make_a_port_taken() -> None:
    """A server that is started again at once finds its port free, although connections linger in TIME_WAIT."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does, gRPC and Envoy too
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = Address("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(address) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first is the one that lingers
            assert client.recv(1) == b""
    check_port_free(address, key="http")


def test_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(SettingsError, match=r"^grpc: cannot listen on 192\.0\.2\.1:5: "):
        check_port_free(Address("192.0.2.1", 5), key="grpc")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::ffff:10.0.0.1", "::1", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "no address", False),
    ],
)
def test_a_caller_has_a_network_of_ipv6(one: str, other: str, *, same: bool) -> None:
    """A network of 64 bits is the least that a site gets; IPv4 in IPv6 is IPv4."""
    assert (network_of(one) == network_of(other)) is same
