"""Pages that say what code also says: the errors, and the limits."""

import re
from functools import cache

from support.documented import ROOT
from taskgate.base.errors import STATUS_OF
from taskgate.base.settings import Settings
from taskgate.commands.cli import main
from taskgate.documents.document import MAX_NESTING
from taskgate.importing.reader import MAX_WHOLE_BYTES
from taskgate.service.in_flight import COUNTED_BYTES

FIGURE = re.compile(r"--[a-z-]+|\d[\d,]*(?: (?:s|min|MiB|KiB/s|KiB|GiB)\b)?|gateway/envoy\.yaml|pool_size")


def test_errors_have_the_statuses_that_the_server_sends() -> None:
    """Every reason with its gRPC code, its HTTP status, and whether to retry; no other."""
    rows = re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \| (\d+) \| (.+) \|$", page("errors"), re.MULTILINE)
    said = {(f"ERROR_REASON_{name}", code, int(http), retry.startswith("retry")) for name, code, http, retry in rows}
    assert said == {(row.reason, row.grpc_code, row.http_status, row.retryable) for row in STATUS_OF.values()}


def test_each_method_names_every_error_that_it_may_have() -> None:
    """And the service those after which a call may be repeated, where the code alone does not tell."""
    every = {row.reason for row in STATUS_OF.values()}
    of_get_task = every - {"ERROR_REASON_CREDENTIALS_INVALID"}
    assert reasons(section("api", "### TaskService.GetTask")) == of_get_task
    assert reasons(section("api", "### TokenService.CreateToken")) == every - {
        "ERROR_REASON_INVALID_TASK_ID",
        "ERROR_REASON_TOKEN_INVALID",
        "ERROR_REASON_TOKEN_EXPIRED",
        "ERROR_REASON_TASK_NOT_FOUND",
        "ERROR_REASON_PERMISSION_DENIED",
        "ERROR_REASON_TASK_NOT_REPRESENTABLE",
        "ERROR_REASON_DOCUMENT_UNREADABLE",
        "ERROR_REASON_DOCUMENT_TOO_LARGE",
    }
    again = {row.reason for row in STATUS_OF.values() if row.retryable and row.grpc_code == "RESOURCE_EXHAUSTED"}
    assert reasons(section("api", "## TaskService")) == again


def section(name: str, heading: str) -> str:
    """The text below ``heading``, up to the next heading."""
    return page(name).partition(f"\n{heading}\n")[2].partition("\n#")[0]


def reasons(text: str) -> set[str]:
    return set(re.findall(r"ERROR_REASON_[A-Z_]+", text))


def test_limits_have_every_line_of_the_help() -> None:
    """With the same figures, settings and files, which tests/cli compares with what is in force."""
    lines = [line.strip() for line in (main.commands["up"].epilog or "").splitlines() if "  " in line.strip()]
    assert len(lines) > 15
    for line in lines:
        name, value = re.split(r" {2,}", line, maxsplit=1)
        assert [figure for figure in FIGURE.findall(value) if figure not in row(name)] == [], line


def test_limits_that_the_help_leaves_out() -> None:
    defaults = Settings()
    assert f"| {MAX_NESTING:,};" in row("levels of nesting of a document")
    assert f"{MAX_WHOLE_BYTES >> 30} GiB" in row("file of an import")
    assert f"{defaults.token_lifetime / 3600:g} h" in row("token of a key")
    assert f"{defaults.request_timeout:g} s" in row("call")
    assert f"{defaults.drain_delay:g} s" in row("shutdown: health checks fail, calls are served")
    assert f"{defaults.shutdown_grace:g} s" in row("shutdown: calls in flight finish")
    assert f"{defaults.in_flight_mib} MiB" in row(f"answers over {COUNTED_BYTES >> 10} KiB, in flight")


def row(name: str) -> str:
    (found,) = [line for line in page("limits").splitlines() if line.startswith(f"| {name} |")]
    return found.replace("`", "")


@cache
def page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text()
