"""When a transport inside Envoy looks whether its caller is still there."""

import asyncio

import pytest

from taskgate.transports import asgi


@pytest.mark.parametrize(("longest", "looks_in_an_hour", "noticed_within"), [(30.0, 180, 32), (0.05, 110_000, 0.06)])
async def test_idle_stream_is_looked_at_seldom_and_its_end_is_noticed(
    monkeypatch: pytest.MonkeyPatch, longest: float, looks_in_an_hour: int, noticed_within: float
) -> None:
    """An hour passes in no time: pyvoy says at once that nothing came, until it says that the caller has gone."""
    now = asyncio.get_running_loop().time()
    waits: list[float] = []
    sleep = asyncio.sleep

    async def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(seconds)
        await sleep(0)

    began, looks = now, 0

    async def receive() -> dict[str, object]:
        nonlocal looks
        looks += 1
        if now - began < 3600:
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    monkeypatch.setattr(asgi.asyncio, "sleep", pass_time)
    monkeypatch.setattr(asgi, "_now", lambda: now)
    with pytest.raises(asgi.CallerGone):
        async with asgi.cancel_when_caller_leaves(receive, longest=longest):
            await asyncio.Event().wait()
    assert looks <= looks_in_an_hour
    assert waits[0] <= 0.05, "a stream that ends soon is let go soon"
    assert max(waits) <= noticed_within
