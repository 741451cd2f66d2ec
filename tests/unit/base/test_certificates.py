"""Certificates in files: what counts as a replacement, and what is said about their end."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.certificates import Authority, MountedSecret
from taskgate.base import certificates
from taskgate.base.certificates import Certificates, ExpiryNotices, Follower, TlsFiles

AUTHORITY = Authority()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TlsFiles:
    """A certificate and its key, looked at a hundred times a second."""
    monkeypatch.setattr(certificates, "_POLL_SECONDS", 0.01)
    return TlsFiles(*AUTHORITY.server().save(tmp_path, "tls"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - as a user waits
            await asyncio.sleep(0.01)


def renamed(source: Path, target: Path) -> None:
    source.rename(target)


def linked(source: Path, target: Path) -> None:
    """As certbot does it: a new link to another file."""
    target.unlink(missing_ok=True)
    target.symlink_to(source)


@pytest.mark.parametrize("way", [renamed, linked, shutil.copyfile], ids=["renamed", "linked", "written in place"])
async def test_replaced_files_are_used_once_they_belong_together(
    files: TlsFiles, tmp_path: Path, way: Callable[[Path, Path], object]
) -> None:
    """However they are replaced; meanwhile the certificate without its key is refused, and named in the log."""
    follower, used = Follower(files), list[Certificates]()
    first = follower.current
    task = asyncio.create_task(follower.follow(used.append))
    chain, key = AUTHORITY.server().save(tmp_path, "new")
    with capture_logs() as logs:
        way(chain, files.certificate)
        await until(lambda: logs)
        assert (logs[0]["log_level"], used, follower.current) == ("warning", [], first)
        assert (
            logs[0]["reason"] == f"tls_key: {files.key} is not the key of the first certificate in {files.certificate}"
        )
        way(key, files.key)
        await until(lambda: used)
        task.cancel()
    assert used == [follower.current]
    assert follower.current.chain == files.certificate.read_bytes() != first.chain
    assert [line["event"] for line in logs[1:]] == ["certificate replaced"]


async def test_swapped_folder_counts_as_one_replacement(tmp_path: Path, files: TlsFiles) -> None:
    """As Kubernetes replaces a secret; a version that has not changed is none."""
    identities = [AUTHORITY.server() for _ in range(2)]
    contents = [{"tls_crt": one.chain, "tls_key": one.key} for one in identities]
    (tmp_path / "mounted").mkdir()
    secret = MountedSecret(tmp_path / "mounted", **contents[0])
    follower, used = Follower(TlsFiles(secret.path("tls_crt"), secret.path("tls_key"))), list[Certificates]()
    task = asyncio.create_task(follower.follow(used.append))
    with capture_logs() as logs:
        for version in (contents[0], contents[1], contents[1]):
            secret.replace(**version)
            await asyncio.sleep(0.1)
        await until(lambda: used)
        task.cancel()
    assert [one.chain for one in used] == [identities[1].chain]
    assert [line["event"] for line in logs] == ["certificate replaced"]


async def test_replacement_that_fails_is_tried_again(files: TlsFiles, tmp_path: Path) -> None:
    """For example on a full disk: logged once."""
    follower, tries = Follower(files), list[Certificates]()

    def use(new: Certificates) -> None:
        tries.append(new)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")

    task = asyncio.create_task(follower.follow(use))
    with capture_logs() as logs:
        for new, old in zip(AUTHORITY.server().save(tmp_path, "new"), (files.certificate, files.key), strict=True):
            new.rename(old)
        await until(lambda: len(tries) == 3)
        task.cancel()
    failures = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"] for line in failures] == ["the new certificate cannot be put into use; trying again"]
    assert follower.current == tries[-1]


async def test_certificates_near_their_end_are_named_once_until_they_are_replaced(files: TlsFiles) -> None:
    """In the last two weeks, and when they have expired; those of callers' authorities too."""
    now = datetime.now(UTC)
    good = replace(Follower(files).current, ends=now + timedelta(days=90))
    soon, gone = (replace(good, ends=now + timedelta(days=days)) for days in (13, -1))
    notices = ExpiryNotices()

    def given(current: Certificates) -> list[tuple[str, bool]]:
        with capture_logs() as logs:
            notices.give(current)
            notices.give(current)
        assert all(line["log_level"] == "warning" for line in logs)
        return [(line["setting"], "has expired" in line["event"]) for line in logs]

    assert given(good) == []
    assert given(soon) == [("tls_cert", False)]
    assert given(gone) == [("tls_cert", True)]
    assert given(good) == []
    assert given(gone) == [("tls_cert", True)]
    assert given(replace(good, client_ca_ends=now)) == [("tls_client_ca", True)]
