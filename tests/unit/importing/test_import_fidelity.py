"""What an import finds and stores is what was in the file, token for token, wherever the bytes are cut."""

import asyncio
import gzip
import io
import itertools
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.json_texts import JsonText, spaced, task_tokens
from taskgate.base.task_id import TaskIdFormat
from taskgate.importing import Reject, Source, reader, run_import
from taskgate.importing.reader import Fault, Found, Piece, Reader
from taskgate.stores import open_store, open_writer
from taskgate.stores.base import WriteCounts

_numbers = itertools.count()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('fidelity')}/tasks.db"


async def documents_of(url: str, ids: list[str]) -> list[bytes | None]:
    store = open_store(url)
    found = [await store.get_document(task_id) for task_id in ids]
    await store.close()
    return found


LAYOUTS = ["lines", "list", "list over lines", "text", "workflow", "lists on lines", "workflows on lines"]


def laid_out(layout: str, texts: list[bytes]) -> bytes:
    layouts = {
        "lines": b"\r\n\n".join(texts),
        "list": b"[" + b",".join(texts) + b"]",
        "list over lines": b"\n[\n" + b"\n,\n".join(texts) + b"]\n",
        "text": b"{\n" + b"".join(texts)[1:],
        "workflow": b'{ "input" : {"tasks":[{}]},"tasks" :\n[' + b",".join(texts) + b'],\n"output":{}}',
        "lists on lines": b"\n".join(b"[" + text + b"]" for text in texts) + b"\n[]",
        "workflows on lines": b"\n".join(b'{"x":"tasks","tasks":[' + text + b"]}" for text in texts),
    }
    return layouts[layout]


@settings(max_examples=3 * settings().max_examples // 2)
@given(data=st.data(), layout=st.sampled_from(LAYOUTS), compressed=st.booleans())
def test_every_document_is_stored_and_served_with_exactly_its_tokens(
    url: str, data: st.DataObject, layout: str, compressed: bool
) -> None:
    """1.0, 1e400, 30 digits, escapes, lone surrogates, keys twice, deep nesting, in every layout of a file."""
    whitespace = " \t\r" if "lines" in layout else " \t\r\n"
    ids = [str(uuid.UUID(int=next(_numbers))) for _ in range(data.draw(st.integers(1, 3)))]
    texts: list[JsonText] = [data.draw(spaced(task_tokens(task_id), whitespace)) for task_id in ids]
    content = laid_out(layout, [text.spaced.strip() for text in texts])
    rejects: list[Reject] = []
    source = Source("file", lambda: io.BytesIO(gzip.compress(content) if compressed else content))
    with open_writer(url) as writer:
        summary = run_import([source], writer, TaskIdFormat.UUID, on_reject=rejects.append)
    assert rejects == []
    assert summary.written == WriteCounts(added=len(ids))
    assert asyncio.run(documents_of(url, ids)) == [text.minified for text in texts]
    with open_writer(url) as writer:
        again = run_import([source], writer, TaskIdFormat.UUID)
    assert again.written == WriteCounts(unchanged=len(ids))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every path that only long lines and large documents take, with short ones."""
    with monkeypatch.context() as patch:
        patch.setattr(reader, "CHUNK_BYTES", 40)
        patch.setattr(reader, "MAX_TEXT_BYTES", 250)
        patch.setattr(reader, "MAX_WHOLE_BYTES", 2000)
        yield


def pieces(content: bytes, sizes: list[int]) -> list[Piece]:
    stream = io.BytesIO(content)
    cuts = itertools.cycle(sizes)
    return [piece for piece in Reader(lambda size: stream.read(min(size, next(cuts)))).pieces() if piece is not None]


_fragments = st.sampled_from(
    [
        *(
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b"\n",
            b"\r\n",
            b" ",
            b"\n\n",
            b"1",
            b"null",
            b"\xff",
            b"\0",
        ),
        *(b'"a"', b'"tasks"', b'"tasks":[', b'"taskId":"a"', b'"taskId":null', b'{"taskId":"b"}', b'[{"taskId":"c"}]'),
        *(
            b'{"tasks":[{"taskId":"d"}]}',
            b'"\\"}"',
            b"x" * 50,
            b'"' + b"y" * 100 + b'"',
            b" " * 60,
            b'{"z":"' + b"z" * 200,
        ),
        *(b"\xef\xbb\xbf", b"\x1f\x8b"),
    ]
)


@pytest.mark.usefixtures("small_limits")
@given(
    content=st.lists(_fragments, max_size=25).map(b"".join), sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6)
)
@settings(max_examples=10 * settings().max_examples, suppress_health_check=["function_scoped_fixture"])  # type: ignore[list-item]
def test_what_is_found_does_not_depend_on_where_the_bytes_are_cut(content: bytes, sizes: list[int]) -> None:
    """Damaged or not, in chunks of any size: the same documents, the same faults, on the same lines."""
    assert pieces(content, sizes) == pieces(content, [1_000_000])


def found(content: bytes) -> list[Found]:
    everything = pieces(content, [1_000_000])
    assert not [piece for piece in everything if isinstance(piece, Fault)]
    return [Found(piece.line, piece.text.strip()) for piece in everything if isinstance(piece, Found)]


_short_documents = st.lists(
    st.integers(0, 200).map(lambda size: b'{"taskId":"' + b"[" * (size // 2) + b"x" * (size // 2) + b'"}'), max_size=6
)


@given(documents=_short_documents, layout=st.sampled_from(["lines", "list", "list over lines", "lists on lines"]))
def test_long_lines_and_large_documents_are_read_like_short_ones(documents: list[bytes], layout: str) -> None:
    content = laid_out(layout, documents)
    expected = found(content)
    assert [piece.text for piece in expected] == documents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK_BYTES", 40)
        assert found(content) == expected


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("layout", ["lines", "list", "list over lines", "text", "workflow", "lists on lines"])
def test_document_that_is_too_long_is_rejected_without_its_neighbours(layout: str) -> None:
    """Over-long documents are skipped, not held; what is before and behind them is kept."""
    good = [b'{"taskId":"a"}', b'{"taskId":"b"}']
    long = b'{"taskId":"x","s":["' + b"]" * 1000 + b'\\"}"]}'
    content = laid_out(layout, [good[0], long, good[1]])
    everything = pieces(content, [64])
    assert [piece.text.split() for piece in everything if isinstance(piece, Found)] == [
        good[0].split() if layout != "text" else [b"{", good[0][1:]],
        good[1].split(),
    ]
    assert [piece.reason[:11] for piece in everything if isinstance(piece, Fault)] == ["longer than"]


@pytest.mark.usefixtures("small_limits")
def test_large_workflow_is_read_task_by_task_wherever_its_tasks_are() -> None:
    tasks = [b'{"taskId":"%d","x":"%s"}' % (number, b"y" * 150) for number in range(5)]
    for before in (b"", b'"input":{"s":"' + b"z" * 300 + b'"},', b'"input":"' + b"z" * 60 + b'","taskId":null,'):
        content = b"{" + before + b'"tasks":[' + b",\n".join(tasks) + b'],"output":[1,"]"]}'
        for whole in (content, b"[" + content + b"]", content.replace(b"\n", b"") + b'\n{"taskId":"z"}'):
            everything = pieces(whole, [1_000_000])
            assert [piece.text for piece in everything if isinstance(piece, Found)][:5] == tasks
            assert not [piece for piece in everything if isinstance(piece, Fault)]


@pytest.mark.usefixtures("small_limits")
def test_task_with_a_key_tasks_is_a_task_however_large() -> None:
    task = b'{"taskId":"a","tasks":[{"taskId":"b"}],"s":"' + b"z" * 100 + b'"}'
    assert pieces(task, [7]) == [Found(1, task)]
    too_long = task.replace(b"z", b"zzz")
    assert [type(piece) for piece in pieces(too_long, [7])] == [Fault]
