# ruff: noqa: ASYNC220, ASYNC240 - blocking for a moment does no harm here
"""Changes of the keyring, as pure functions of keyring and time; and a process's copy, which follows the store."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from taskgate.access import keyring as keyrings
from taskgate.access import live_keyring
from taskgate.access.hashing import MAX_SECRET, hash_secret, secret_matches
from taskgate.access.keyring import (
    MAX_KEYS,
    MAX_TOKEN_LIFETIME,
    SIGNING_KEY_DELAY,
    ApplicationKey,
    Keyring,
    UnknownKeyring,
    check_name,
    check_workflow_types,
    decode,
    encode,
    find_key,
    with_changed_key,
    with_key,
    with_signing_key,
)
from taskgate.access.keyrings.sqlite import SqliteKeyring
from taskgate.access.live_keyring import LiveKeyring, change_keyring
from taskgate.access.roles import Role
from taskgate.access.signing import new_signing_key
from taskgate.base.errors import SettingsError, StoreUnavailable
from taskgate.base.settings import ROLES


def key(name: str, **changes: object) -> ApplicationKey:
    fields = {"key_id": f"id-{name}", "name": name, "role": Role.READER, "secret_hash": "hash", "created": 1}
    return ApplicationKey(**(fields | changes))  # type: ignore[arg-type]


def test_settings_and_commands_name_each_role() -> None:
    """``ROLES`` is a list of its own, because settings are below roles in the map of imports."""
    assert set(ROLES) == {role.value for role in Role}


class TestKeyring:
    """The value."""

    def test_it_is_stored_as_it_is(self) -> None:
        kept = {"former_hash": "former", "former_until": 5, "workflow_types": ("a", "ä"), "disabled": True}
        ring = Keyring((key("a"), key("b", role=Role.UNMASKED_READER, **kept)))
        ring = with_signing_key(with_signing_key(ring, "k1", "pem 1", now=10), "k2", "pem 2", now=20)
        assert decode(encode(ring)) == ring

    @given(st.binary() | st.sampled_from([b"null", b"[]", b"{}x", b'{"keys":[{}]}', b'{"keys":1}', b'{"format":2}']))
    def test_another_document_is_refused(self, document: bytes) -> None:
        """Also one of a later version, which may hold what this one would lose."""
        with pytest.raises(UnknownKeyring):
            decode(document)

    def test_names_are_unique_and_keys_are_found_by_name_and_id(self) -> None:
        ring = with_key(with_key(Keyring(), key("a")), key("b"))
        with pytest.raises(SettingsError, match="already a key named a;"):
            with_key(ring, key("a", key_id="another"))
        assert find_key(ring, "b") is find_key(ring, "id-b")
        assert find_key(with_changed_key(ring, "id-b", disabled=True), "b").disabled
        assert not find_key(ring, "b").disabled
        with pytest.raises(SettingsError, match="no key named c;"):
            with_changed_key(ring, "c", disabled=True)

    def test_a_name_that_is_the_id_of_another_key_is_refused(self) -> None:
        """Otherwise a command that names one of them could change the other."""
        ring = with_key(Keyring(), key("a"))
        with pytest.raises(SettingsError):
            with_key(ring, key("id-a", key_id="another"))

    def test_a_full_keyring_takes_no_more(self) -> None:
        ring = Keyring(tuple(key(str(number)) for number in range(MAX_KEYS)))
        with pytest.raises(SettingsError, match="holds 10000 keys"):
            with_key(ring, key("one more"))
        assert find_key(with_changed_key(ring, "7", disabled=True), "7").disabled

    @pytest.mark.parametrize("name", ["", " ", "a ", " a", "a\n", "a\tb", "\x1b[31m", "a\u2028b", "x" * 129])
    def test_names_that_could_forge_lines_are_refused(self, name: str) -> None:
        with pytest.raises(SettingsError):
            check_name(name)

    def test_other_names_are_taken(self) -> None:
        for name in ("a", "a b", "ä/ö:1", "x" * 128):
            assert check_name(name) == name

    def test_workflow_types(self) -> None:
        assert check_workflow_types([]) is None
        assert check_workflow_types(["b", "a", "b"]) == ("b", "a")
        for empty in ("", "  "):
            with pytest.raises(SettingsError):
                check_workflow_types(["a", empty])

    def test_the_former_secret_is_valid_until_its_time(self) -> None:
        rotated = key("a", former_hash="former", former_until=100)
        assert rotated.hashes(99.9) == ("hash", "former")
        assert rotated.hashes(100) == ("hash",)

    def test_a_further_signing_key_signs_later_and_the_former_verifies_on(self) -> None:
        """The first signs at once; former ones verify for as long as a token of theirs lasts; then they are removed."""
        first = with_signing_key(Keyring(), "k1", "pem", now=1000)
        assert signing(first, 1000) == "k1"
        assert signing(first, 999) == "k1", "a clock that is behind does not stop the service"
        assert signing(Keyring(), 1000) is None
        both = with_signing_key(first, "k2", "pem", now=2000)
        change = 2000 + SIGNING_KEY_DELAY
        assert (signing(both, change - 1), signing(both, change)) == ("k1", "k2")
        assert both.signing_keys[0].verifies(change + MAX_TOKEN_LIFETIME - 1)
        assert not both.signing_keys[0].verifies(change + MAX_TOKEN_LIFETIME)
        three = with_signing_key(both, "k3", "pem", now=2001)
        assert [one.kid for one in three.signing_keys] == ["k1", "k2", "k3"]
        assert signing(three, 2001) == "k1"
        later = with_signing_key(three, "k4", "pem", now=change + MAX_TOKEN_LIFETIME)
        assert [one.kid for one in later.signing_keys] == ["k2", "k3", "k4"]


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a test polls
            await asyncio.sleep(0.01)


def signing(ring: Keyring, now: float) -> str | None:
    found = ring.signing_key(now)
    return None if found is None else found.kid


class TestHashing:
    """Secrets are stored hashed."""

    def test_only_the_secret_matches(self) -> None:
        stored = hash_secret("secret")
        assert "secret" not in stored
        assert stored.startswith("$argon2id$")
        assert stored != hash_secret("secret"), "salted"
        assert secret_matches("secret", (stored,))
        assert secret_matches("secret", (hash_secret("other"), stored))
        for wrong in ("", "Secret", "secret ", "secret\0", "\ud800"):
            assert not secret_matches(wrong, (stored,))
        assert not secret_matches("secret", ())
        for damaged in ("", "secret", "$argon2id$", stored[:-4], "ä"):
            assert not secret_matches("secret", (damaged,))

    def test_an_overlong_secret_is_refused(self) -> None:
        secret = "s" * (MAX_SECRET + 1)
        assert not secret_matches(secret, (hash_secret(secret),))
        assert secret_matches(secret[1:], (hash_secret(secret[1:]),))

    def test_an_unknown_key_takes_as_long_as_a_known_one(self) -> None:
        """So that the time does not tell which IDs exist. CPU time, the least of some."""
        stored = hash_secret("secret")

        def cpu_seconds(hashes: tuple[str, ...]) -> float:
            took = []
            for _ in range(4):
                began = time.thread_time()
                secret_matches("wrong", hashes)
                took.append(time.thread_time() - began)
            return min(took)

        assert 0.4 < cpu_seconds(()) / cpu_seconds((stored,)) < 2.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
async def live(path: Path) -> AsyncIterator[LiveKeyring]:
    """A started one."""
    followed = LiveKeyring(SqliteKeyring(str(path)))
    await followed.start()
    yield followed
    await followed.close()


class TestLiveKeyring:
    """A process's copy."""

    async def test_it_creates_the_first_signing_key_once(self, path: Path) -> None:
        """However many processes start at the same time: all have the same one."""
        rings = [LiveKeyring(SqliteKeyring(str(path))) for _ in range(8)]
        await asyncio.gather(*(ring.start() for ring in rings))
        assert len({ring.keyring.signing_keys for ring in rings}) == 1
        assert len(rings[0].keyring.signing_keys) == 1
        for ring in rings:
            await ring.close()

    async def test_two_processes_create_one_signing_key(self, path: Path) -> None:
        script = (
            "import asyncio, sys\n"
            "from taskgate.access.keyrings.sqlite import SqliteKeyring\n"
            "from taskgate.access.live_keyring import LiveKeyring\n"
            "async def run():\n"
            "    ring = LiveKeyring(SqliteKeyring(sys.argv[1]))\n"
            "    input()\n"
            "    await ring.start()\n"
            "    print(*(key.kid for key in ring.keyring.signing_keys))\n"
            "    await ring.close()\n"
            "asyncio.run(run())\n"
        )
        command = [sys.executable, "-c", script, str(path)]
        pipe = subprocess.PIPE
        processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        printed = [process.communicate(timeout=60)[0].strip() for process in processes]
        assert sum("a keyring was created" in text for text in printed) == 1
        kids = {text.rpartition("\n")[2] for text in printed}
        assert len(kids) == 1
        assert kids.pop().count(" ") == 0

    async def test_away_at_first(self, tmp_path: Path) -> None:
        """Nothing can be judged, which is retryable; when the store is there, all is."""
        path = tmp_path / "later" / "keys.db"
        ring = LiveKeyring(SqliteKeyring(str(path)))
        await ring.start()
        for judge in (lambda: ring.keyring, ring.public_keys):
            with pytest.raises(StoreUnavailable, match="keys cannot be read now") as away:
                judge()
            assert str(tmp_path) not in away.value.message
        with pytest.raises(StoreUnavailable):
            await ring.key("id")
        path.parent.mkdir()
        await ring._look()
        assert len(ring.public_keys()) == 1
        await ring.close()

    async def test_away_later(self, live: LiveKeyring, path: Path) -> None:
        """Known keys go on, and unknown ones cannot be judged; one line when it goes, and one when it is back."""
        await change_keyring(live._store, lambda ring: with_key(ring, key("a")))
        await live._look()
        with structlog.testing.capture_logs() as logged:
            kept = path.read_bytes()
            for damage in (b"no SQLite file" * 100, None):
                path.unlink()
                path.mkdir() if damage is None else path.write_bytes(damage)
                for _ in range(2):
                    await live._look()
                assert (await live.key("id-a")) is not None
                with pytest.raises(StoreUnavailable):
                    await live.key("id-b")
                assert len(live.public_keys()) == 1
                assert set(live.principals) == {"id-a"}
                path.rmdir() if damage is None else path.unlink()
                path.write_bytes(kept)
                await live._look()
                assert await live.key("id-b") is None
        assert [line["log_level"] for line in logged] == ["warning", "info"] * 2

    async def test_keys_that_are_gone_stay_valid_until_others_are_there(self, live: LiveKeyring, path: Path) -> None:
        """An operator who moves the file away by mistake does not lock everyone out. A new file is followed."""
        (before,) = live.keyring.signing_keys
        path.unlink()
        for _ in range(3):
            await live._look()
            assert live.keyring.signing_keys == (before,)
        assert not path.exists()
        kid, pem = new_signing_key()
        await change_keyring(live._store, lambda ring: with_signing_key(ring, kid, pem, now=1))
        await live._look()
        assert [one.kid for one in live.keyring.signing_keys] == [kid], "the revision is the former one's: 1"

    async def test_a_replacement_creates_no_keyring(self, path: Path) -> None:
        """What it does not find is away: tokens are neither judged nor ended. It goes on when the keyring is back."""
        ring = LiveKeyring(SqliteKeyring(str(path)), create=False)
        with structlog.testing.capture_logs() as logged:
            await ring.start()
        assert not path.exists()
        assert not ring.known
        with pytest.raises(StoreUnavailable, match="keys cannot be read now"):
            ring.public_keys()
        assert ["calls are refused until it does" in line["event"] for line in logged] == [True]
        await change_keyring(ring._store, lambda keyring: with_key(keyring, key("a")))
        await ring._look()
        assert ring.readable
        assert len(ring.public_keys()) == 1, "'keys create' leaves the signing key to the servers"
        await ring.close()

    async def test_a_first_start_says_that_it_has_created_a_keyring(self, path: Path) -> None:
        """And no other one does, nor this one again after it has read a keyring."""
        told = []
        for create in (True, True, False):
            ring = LiveKeyring(SqliteKeyring(str(path)), create=create)
            with structlog.testing.capture_logs() as logged:
                await ring.start()
            told.append([line["event"].partition(",")[0] for line in logged])
            assert ring.known
            await ring.close()
        assert told == [["a keyring was created"], [], []]
        path.unlink()
        await ring._look()
        assert not path.exists()
        assert (ring.known, ring.readable) == (True, False)

    async def test_a_start_does_not_wait_for_a_store_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Such as a file on a disk that is away."""

        async def read(known: int | None = None) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(live_keyring, "_FIRST_READ_SECONDS", 0.01)
        store = SqliteKeyring("unused.db")
        monkeypatch.setattr(store, "read", read)
        ring = LiveKeyring(store)
        async with asyncio.timeout(5):
            await ring.start()
        assert not ring.known
        await ring.close()

    async def test_an_unreadable_document_changes_nothing(self, live: LiveKeyring, path: Path) -> None:
        """Not in this process, nor in the store, and the sentence says what is wrong."""
        with closing(connect(path)) as connection, connection:
            connection.execute("UPDATE taskgate_keyring SET revision = 7, document = '{\"format\":2}'")
        with structlog.testing.capture_logs() as logged:
            await live._look()
        assert "no keyring that this version of taskgate can read" in logged[0]["reason"]
        assert live.keyring.signing_keys
        with pytest.raises(StoreUnavailable, match="no keyring that this version"):
            await change_keyring(live._store, lambda ring: with_key(ring, key("a")))
        with closing(connect(path)) as connection:
            assert connection.execute("SELECT revision FROM taskgate_keyring").fetchone() == (7,)

    async def test_a_new_key_is_found_by_a_second_look(self, live: LiveKeyring) -> None:
        await change_keyring(live._store, lambda ring: with_key(ring, key("new")))
        found = await live.key("id-new")
        assert found is not None
        assert found.name == "new"

    async def test_unknown_keys_cause_few_looks(self, live: LiveKeyring, monkeypatch: pytest.MonkeyPatch) -> None:
        """One a second, also for many callers at once and for callers that leave while it is under way."""
        looks = 0

        async def read(known: int | None = None) -> None:
            nonlocal looks
            looks += 1
            await asyncio.sleep(0.1)

        monkeypatch.setattr(live._store, "read", read)
        assert set(await asyncio.gather(*(live.key(f"unknown {number}") for number in range(100)))) == {None}
        assert looks == 1
        callers = [asyncio.create_task(live.key("unknown")) for _ in range(20)]
        await asyncio.sleep(0.01)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        began = time.monotonic()
        assert await live.key("unknown") is None
        assert looks <= 3
        assert time.monotonic() - began > 0.1

    async def test_changes_of_others_are_taken(self, live: LiveKeyring, monkeypatch: pytest.MonkeyPatch) -> None:
        """Within the pause between two looks."""
        monkeypatch.setattr(live_keyring, "POLL_SECONDS", 0.05)
        other = LiveKeyring(SqliteKeyring(str(live._store._path)))  # type: ignore[attr-defined]
        await other.start()
        await change_keyring(live._store, lambda ring: with_key(ring, key("a")))
        await eventually(lambda: "id-a" in other.principals)
        await change_keyring(live._store, lambda ring: with_changed_key(ring, "a", disabled=True))
        await eventually(lambda: "id-a" not in other.principals)
        await other.close()

    async def test_a_change_between_its_first_key_and_its_next_look_is_not_missed(self, path: Path) -> None:
        """The first signing key, then another process's key at once."""
        store = SqliteKeyring(str(path))
        replace = store.replace

        async def overtaken(document: bytes, *, revision: int) -> bool:
            done = await replace(document, revision=revision)
            if done and revision == 0:
                await change_keyring(SqliteKeyring(str(path)), lambda ring: with_key(ring, key("a")))
            return done

        store.replace = overtaken  # type: ignore[method-assign]
        ring = LiveKeyring(store)
        await ring.start()
        assert set(ring.principals) == {"id-a"}
        await ring.close()


def test_ids_and_secrets_are_random() -> None:
    assert len({keyrings.new_key_id() for _ in range(100)}) == 100
    assert all(len(keyrings.new_secret()) == 43 for _ in range(10))
