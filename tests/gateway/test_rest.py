"""``GET /api/tasks/{taskId}`` through Envoy: what reaches the server, and what the caller receives."""

from typing import Any

import pytest

from gateway.running import Gateway
from gateway.stub_server import DOCUMENT
from gateway.wire import Answer, Ask, Http1, Http2, HungUp, assert_error, assert_nothing_leaks
from taskgate.service.calls import usable_request_id

PATH = "/api/tasks/"
NO_UTF8 = ("%FF", "a%C3", "%ED%A0%80")
ROUTES_OF_CONDUCTOR = (
    *("search", "search?query=x", "search-v2", "%73earch", "externalstoragelocation", "external-storage-location"),
    *("update-v2", "queue/sizes", "queue/size", "queue/all", "queue/all/verbose", "queue/polldata"),
    *("queue/polldata/all", "queue/requeue/a", "poll/a", "poll/batch/a", "a/log", "a/b/COMPLETED"),
    *("a/b/COMPLETED/sync", "a/COMPLETED/signal", "a/COMPLETED/signal/sync"),
)
"""Conductor's other paths below /api/tasks, beside {taskId}: "search" is no malformed ID."""

BODIES = [b"", b"hello", b'{"taskId":"OTHER"}', b'{"task_id":"OTHER"}', b"[1]", b"\x00\xff", b"x" * 20_000]


def described(answer: Answer) -> Any:
    """The call as the stub server describes it."""
    assert answer.status == 200, answer
    assert_nothing_leaks(answer)
    return answer.json


def metadata(answer: Answer) -> dict[str, str]:
    pairs = described(answer)["metadata"]
    assert len(dict(pairs)) == len(pairs), "metadata that is there twice"
    return dict(pairs)


class TestSuccess:
    def test_body_is_the_servers_bytes(self, ask: Ask) -> None:
        answer = ask(f"{PATH}stub.document")
        assert answer.status == 200
        assert answer.body == DOCUMENT

    def test_headers_are_these_and_no_others(self, ask: Ask) -> None:
        answer = ask(f"{PATH}stub.document")
        names = sorted(name for name, _ in answer.headers)
        assert names == ["content-length", "content-type", "date", "x-request-id"]
        assert answer.header("content-type") == "application/json"
        assert not answer.trailers

    def test_accept_and_content_type_do_not_matter(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for accept in ("*/*", "text/html", "application/xml;q=0.1", "nonsense", ""):
            for content_type in (
                "application/json",
                "text/plain",
                "application/grpc",
                "application/grpc+proto",
                "nonsense",
            ):
                with subtests.test(accept=accept, content_type=content_type):
                    answer = ask(f"{PATH}stub.document", headers=[("accept", accept), ("content-type", content_type)])
                    assert (answer.status, answer.body) == (200, DOCUMENT)
                    assert answer.header("content-type") == "application/json"

    def test_several_requests_share_a_connection(self, gateway: Gateway) -> None:
        with Http1(gateway.address) as connection:
            for path, status in [("stub.document", 200), ("stub.error.5", 404), ("", 404), ("stub.document", 200)] * 3:
                assert connection.ask(PATH + path).status == status

    def test_upgrade_offer_to_http2_is_ignored(self, gateway: Gateway) -> None:
        """Some clients offer h2c on every cleartext request."""
        offer = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQ")]
        with Http1(gateway.address) as connection:
            assert connection.ask(f"{PATH}stub.document", headers=offer).body == DOCUMENT


class TestRequestId:
    def test_callers_request_id_is_kept(self, ask: Ask) -> None:
        answer = ask(f"{PATH}x", headers=[("x-request-id", "caller:42")])
        assert answer.header("x-request-id") == "caller:42"
        assert metadata(answer)["x-request-id"] == "caller:42"

    def test_call_without_a_request_id_gets_one(self, ask: Ask) -> None:
        answer = ask(f"{PATH}x")
        assert answer.header("x-request-id") == metadata(answer)["x-request-id"]
        assert len(answer.header("x-request-id") or "") == 36

    def test_errors_carry_the_request_id(self, ask: Ask) -> None:
        for path in ("stub.error.5", "", "a%2Fb"):
            answer = ask(PATH + path, headers=[("x-request-id", "caller:42")])
            assert (path, answer.header("x-request-id")) == (path, "caller:42")

    def test_unusable_request_id_is_replaced(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """Envoy itself does so, so that its own answers and log lines have the new one."""
        for path in ("stub.document", "stub.error.5", "", "../.."):
            for unusable in ("x" * 129, "x" * 8000, "a b", "<a>", "a,b", "%41"):
                with subtests.test(path, unusable=unusable[:9]):
                    given = ask(PATH + path, headers=[("x-request-id", unusable)]).header("x-request-id")
                    assert given
                    assert given != unusable

    def test_envoy_and_the_server_agree_on_what_is_usable(self, ask: Ask) -> None:
        for offered in ("", "x" * 128, "x" * 129, *(f"a{chr(code)}b" for code in range(0x20, 0x7F))):
            answer = ask(f"{PATH}stub.document", headers=[("x-request-id", offered)])
            assert (answer.header("x-request-id") == offered) == (usable_request_id(offered) == offered), offered

    def test_two_request_ids_are_both_replaced(self, ask: Ask) -> None:
        """Hops on the way may disagree on which of them counts."""
        answer = ask(f"{PATH}stub.document", headers=[("x-request-id", "a"), ("x-request-id", "b")])
        assert len(answer.header("x-request-id") or "") == 36

    def test_request_that_envoy_refuses_before_its_headers_has_one_request_id(
        self, gateway: Gateway, subtests: pytest.Subtests
    ) -> None:
        """An encoded slash, no host, CONNECT: one ID as for any other request, also if it says that it is gRPC."""
        for request_line in (
            f"GET {PATH}a%2Fb HTTP/1.1\r\nhost: a",
            f"GET {PATH}a HTTP/1.1",
            "CONNECT a:1 HTTP/1.1\r\nhost: a:1",
            f"POST {PATH}a%2Fb HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0",
        ):
            for offered in ("caller:42", "x" * 128, "x" * 129, "x" * 8000, "<a>", "a b", "a,b", "", None):
                header = "" if offered is None else f"\r\nx-request-id: {offered}"
                with subtests.test(request_line, offered=(offered or "")[:9]), Http1(gateway.address) as connection:
                    connection.send(f"{request_line}{header}\r\n\r\n".encode())
                    answer = connection.answer()
                    assert answer.status in {200, 400, 404}  # 200 with a grpc-status
                    (given,) = [value for name, value in answer.headers if name == "x-request-id"]
                    assert given == offered if usable_request_id(offered) == offered else len(given) == 36


class TestOnlyThePathNamesTheTask:
    def test_query_string_changes_nothing(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """Conductor ignores query strings here, and the transcoder would bind them."""
        for query in (
            *(
                "taskId=OTHER",
                "task_id=OTHER",
                "task%5Fid=OTHER",
                "%74askId=OTHER",
                "taskId=OTHER&taskId=MORE",
                "task_id",
            ),
            *("", "pretty=true", "a=b&c=d", "a?b", "?", "%", "%00", "%FF", "extensions.type_url=x", "=", "&&"),
            *("taskId[]=1", "taskId"),
        ):
            with subtests.test(query):
                assert described(ask(f"{PATH}THIS?{query}"))["task_id"] == "THIS"

    def test_query_string_does_not_reach_the_server(self, ask: Ask) -> None:
        assert "secret" not in ask(f"{PATH}THIS?token=secret").body.decode()

    def test_body_changes_nothing(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """A body {"taskId": …} would override the path, if the transcoder saw it."""
        for body in BODIES:
            with subtests.test(repr(body[:20])):
                assert described(ask(f"{PATH}THIS", body=body))["task_id"] == "THIS"

    def test_chunked_body_changes_nothing_and_leaves_the_connection_clean(self, gateway: Gateway) -> None:
        with Http1(gateway.address) as connection:
            connection.send(b"GET /api/tasks/THIS HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            connection.send(b'12\r\n{"taskId":"OTHER"}\r\n0\r\n\r\n')
            assert described(connection.answer())["task_id"] == "THIS"
            assert described(connection.ask(f"{PATH}NEXT"))["task_id"] == "NEXT"

    def test_large_body_is_refused(self, ask: Ask) -> None:
        for size in (100_000, 3_000_000):
            assert_error(ask(f"{PATH}THIS", body=b"x" * size), 413, "The request body is too large")


class TestTaskIds:
    def test_ids_reach_the_server_decoded_once(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """The server decides which IDs name a task."""
        as_written = ("65fc73fe-0586-11f1-8b8d-6219b54da7fe", "a:b", "a:verb", "a;v=1", "a+b", "a~b", "a,b", "a@b")
        as_written += ("a=b&c", "a!$()*'b", "...", "a" * 8192, "a" * 31_000)
        for written, meant in (
            *((text, text) for text in as_written),
            ("a%20b", "a b"),
            ("%C3%A9", "é"),
            ("%41", "A"),
            ("a%3Ab", "a:b"),
            ("a%3Fb%23c", "a?b#c"),
            ("a%252Fb", "a%2Fb"),
            ("a%25b", "a%b"),
            ("a%2Bb", "a+b"),
            ("a%zzb", "a%zzb"),
            ("a%", "a%"),
            ("a%0Ab", "a\nb"),
            ("a%7Fb", "a\x7fb"),
            ("%61" * 8192, "a" * 8192),
        ):
            with subtests.test(f"{written[:40]}, {len(written)} characters"):
                assert described(ask(PATH + written))["task_id"] == meant

    def test_invalid_utf8_is_refused_by_the_server(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for written in NO_UTF8:
            with subtests.test(written):
                assert_error(ask(PATH + written), 400, "The request cannot be decoded")

    def test_ids_with_nul_slash_or_backslash_are_400(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """Hops on the way might disagree on what they name; so too with a fragment."""
        for written in ("%00", "a%00b", "a%2Fb", "a%2fb", "a%5Cb", "%2e%2e%2f", "a#fragment"):
            with subtests.test(written):
                assert_error(ask(PATH + written), 400, "Malformed HTTP request")

    def test_no_id_or_more_than_one_segment_is_no_route(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for written in (
            *("", "/", "//", "..", "%2e%2e", "%2E.", ".", "%2e", "../x", "%2e%2e/x", "x/", "x/y", "x/..", "../../etc"),
            *("a\\b", "?x"),
        ):
            with subtests.test(written):
                assert_error(ask(PATH + written), 404, "No such route")

    def test_raw_bytes_that_http_forbids_are_refused(self, gateway: Gateway, subtests: pytest.Subtests) -> None:
        for written in (b"a\x7fb", b"a\xffb", b"\xc3\xa9", b"a\x01b"):
            with subtests.test(repr(written)), Http1(gateway.address) as connection:
                assert_error(connection.ask(PATH.encode() + written), 400, "Malformed HTTP request")

    def test_path_over_32_kb_is_431(self, gateway: Gateway) -> None:
        for length in (40_000, 200_000):
            with Http1(gateway.address) as connection:
                assert_error(connection.ask(PATH + "a" * length), 431, "The request headers are too large")

    def test_path_over_32_kb_resets_its_http2_stream_and_no_other(self, gateway: Gateway) -> None:
        """Envoy cannot answer before it has all headers; it resets the stream."""
        with Http2(gateway.address) as connection:
            with pytest.raises(HungUp, match="stream reset"):
                connection.ask(PATH + "a" * 40_000)
            assert connection.ask(f"{PATH}stub.document").body == DOCUMENT

    def test_doubled_slashes_are_tolerated(self, ask: Ask) -> None:
        """SDKs with a base URL that ends in a slash send these."""
        for path in ("/api//tasks/a", "//api/tasks/a", "/api/tasks//a", "/api///tasks///a"):
            assert (path, described(ask(path))["task_id"]) == (path, "a")

    def test_absolute_form_is_understood(self, gateway: Gateway) -> None:
        with Http1(gateway.address) as connection:
            assert described(connection.ask("http://elsewhere/api/tasks/a?x"))["task_id"] == "a"


class TestMethods:
    def test_other_than_get_is_405(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for method in ("OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
            for content_type in ("application/json", "application/grpc-web", "text/plain"):
                with subtests.test(method, content_type=content_type):
                    answer = ask(f"{PATH}a", method=method, body=b"", headers=[("content-type", content_type)])
                    assert_error(answer, 405, "Method not allowed")
                    assert answer.header("allow") == "GET"

    def test_head_is_405_without_a_body(self, ask: Ask) -> None:
        answer = ask(f"{PATH}stub.document", method="HEAD")
        assert (answer.status, answer.header("allow"), answer.body) == (405, "GET", b"")
        assert_nothing_leaks(answer)

    def test_connection_is_clean_after_head(self, gateway: Gateway) -> None:
        """The transcoder sends a body after the headers of HEAD, which the client would take for the next answer."""
        with Http1(gateway.address) as connection:
            for task_id in ("stub.document", "stub.error.5", "", "a%2Fb"):
                connection.ask(PATH + task_id, "HEAD")
                if task_id != "a%2Fb":
                    assert connection.ask(f"{PATH}stub.document").body == DOCUMENT
            assert connection.leftover() == b""

    def test_http2_connection_is_clean_after_head(self, gateway: Gateway) -> None:
        with Http2(gateway.address) as connection:
            assert connection.ask(f"{PATH}stub.document", "HEAD").status == 405
            assert connection.ask(f"{PATH}stub.document").body == DOCUMENT


class TestHeaders:
    def test_what_speaks_to_grpc_or_envoy_is_dropped(self, ask: Ask) -> None:
        """Each of these would otherwise set a deadline, break the call, or be believed."""
        hostile = [
            ("grpc-timeout", "1n"),
            ("grpc-encoding", "gzip"),
            ("grpc-status", "5"),
            ("grpc-anything", "x"),
            ("foo-bin", "!!! not base64"),
            ("x-envoy-original-method", "SPOOFED"),
            ("x-envoy-original-path", "/spoofed"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-retry-on", "5xx"),
            ("x-taskgate-protocol", "HTTP/9"),
            ("x-taskgate-timeout", "1n"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        got = metadata(ask(f"{PATH}a", headers=hostile))
        assert got["x-envoy-original-path"] == "/api/tasks/a"
        assert got["x-envoy-original-method"] == "GET"
        kept = {"x-envoy-original-path", "x-envoy-original-method", "x-envoy-external-address"}
        assert [name for name in got if name.startswith(("grpc-", "x-envoy-")) and name not in kept] == []
        dropped = {"te", "content-type", "x-taskgate-protocol", "x-taskgate-timeout"}
        assert [name for name in got if name.endswith("-bin") or name in dropped] == []

    def test_requests_that_only_look_like_grpc_are_answered(self, gateway: Gateway, ask: Ask) -> None:
        """A GET with headers of gRPC is REST, and pipelined POSTs over HTTP/1.1 are each refused."""
        looks = [("content-type", "application/grpc"), ("grpc-encoding", "br")]
        assert ask(f"{PATH}stub.document", headers=looks).body == DOCUMENT
        assert ask("/healthz", headers=looks).header("grpc-status") is None
        with Http1(gateway.address) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in looks)
            connection.send(f"POST /x HTTP/1.1\r\nhost: a\r\n{head}content-length: 0\r\n\r\n".encode() * 6)
            for _ in range(6):
                assert connection.answer().header("grpc-message") == "gRPC needs POST over HTTP/2"

    def test_others_reach_the_server(self, ask: Ask) -> None:
        got = metadata(
            ask(f"{PATH}a", headers=[("x-authorization", "token"), ("under_score", "1"), ("traceparent", "t")])
        )
        assert (got["x-authorization"], got["under_score"], got["traceparent"]) == ("token", "1", "t")

    def test_a_forged_client_address_is_not_the_last_one(self, ask: Ask) -> None:
        got = metadata(ask(f"{PATH}a", headers=[("x-forwarded-for", "203.0.113.9")]))
        assert got["x-forwarded-for"].startswith("203.0.113.9,")
        assert not got["x-forwarded-for"].endswith("203.0.113.9")

    def test_the_server_is_told_no_deadline(self, ask: Ask) -> None:
        """A large answer takes as long as its reader does; a setting of the server limits its own time until then."""
        assert described(ask(f"{PATH}a"))["remaining"] is None


class TestOtherPaths:
    def test_paths_without_a_route_are_404_for_every_method(self, ask: Ask, subtests: pytest.Subtests) -> None:
        """/api/token too: SDKs with keys then continue without authentication."""
        for path in (
            *("/", "/x", "/api", "/api/token", "/api/tasks", "/api/tasks/", "/API/tasks/a", "/api/workflow/a"),
            *("/taskgate.v1.TaskService/GetTaskJson", "/grpc.health.v1.Health/Check", "/stats", "/config_dump"),
            *(f"/api/tasks/{route}" for route in ROUTES_OF_CONDUCTOR),
        ):
            methods = ("GET", "POST") if path.startswith("/api/tasks/") else ("GET", "POST", "PUT", "DELETE", "OPTIONS")
            for method in methods:
                with subtests.test(path, method=method):
                    assert_error(ask(path, method=method, body=b'{"keyId":"a"}'), 404, "No such route")

    def test_head_of_a_path_without_a_route_is_404_without_a_body(self, ask: Ask) -> None:
        for path in ("/x", "/api/tasks/search"):
            answer = ask(path, method="HEAD")
            assert (path, answer.status, answer.body) == (path, 404, b"")

    def test_token_call_of_the_javascript_sdk(self, gateway: Gateway) -> None:
        """With a chunked body. If Envoy answers before it has read that, it announces that it will disconnect."""
        with Http1(gateway.address) as connection:
            connection.send(
                b"POST /api/token HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                b'transfer-encoding: chunked\r\n\r\n20\r\n{"keyId":"ok","keySecret":"sec"}\r\n0\r\n\r\n'
            )
            answer = connection.answer()
            assert_error(answer, 404, "No such route")
            if answer.header("connection") != "close":
                assert connection.ask(f"{PATH}stub.document").status == 200


class TestHealth:
    def test_healthz_is_200_in_json(self, ask: Ask) -> None:
        for path in ("/healthz", "/healthz?verbose"):
            answer = ask(path)
            assert (answer.status, answer.body) == (200, b'{"healthy":true}')
            assert answer.header("content-type") == "application/json"
            assert_nothing_leaks(answer)

    def test_healthz_answers_head(self, ask: Ask) -> None:
        answer = ask("/healthz", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")

    def test_healthz_refuses_other_methods_with_405(self, ask: Ask, subtests: pytest.Subtests) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            with subtests.test(method):
                answer = ask("/healthz", method=method, body=b"")
                assert_error(answer, 405, "Method not allowed")
                assert answer.header("allow") == "GET, HEAD"
