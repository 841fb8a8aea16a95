"""The client of an engine's API against servers that answer slowly, wrongly or not to the end."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from discovery.testing import within
from discovery_docker.client import AnswerError, Client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@asynccontextmanager
async def sending(data: bytes, *, ends: bool = True, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run a server that answers each request with these bytes, and then `ends` the connection or is silent."""
    silent = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        if not ends:
            await silent.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        try:
            yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            silent.set()


async def received(url: str) -> list[Mapping[str, Any]]:
    """Return all events until the stream ends. Raises what the stream raises."""
    client = Client(url, "1.41", within(10))
    return await asyncio.to_thread(lambda: list(client.events(0, {})))


async def test_events_are_told_as_they_come_and_however_the_engine_cuts_them() -> None:
    data = CHUNKED + chunk(b'{"a": 1}\n{"b"') + chunk(b": 2}\n\n") + chunk(b'{"c": 3}') + b"0\r\n\r\n"
    async with sending(data) as url:
        assert await received(url) == [{"a": 1}, {"b": 2}, {"c": 3}]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (CHUNKED + chunk(b'{"a": 1}\n') + b"99\r\n{", ConnectionError),
        (CHUNKED + chunk(b"[1]\n"), AnswerError),
        (CHUNKED + chunk(b"{\n"), AnswerError),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", AnswerError),
        (b"", ConnectionError),
    ],
    ids=["a chunk is cut off", "no object", "no JSON", "not HTTP", "nothing"],
)
async def test_a_stream_that_cannot_be_read_ends_with_the_reason(data: bytes, error: type[OSError]) -> None:
    async with sending(data) as url:
        with pytest.raises(error):
            await received(url)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (HEAD + b"Content-Length: 9\r\n\r\n{", ConnectionError),
        (HEAD + b"Content-Length: 1\r\n\r\n{", AnswerError),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", AnswerError),
    ],
    ids=["cut off", "no JSON", "not HTTP"],
)
async def test_a_document_that_cannot_be_read_is_an_error(data: bytes, error: type[OSError]) -> None:
    async with sending(data) as url:
        with pytest.raises(error):
            await asyncio.to_thread(Client(url, "1.41", within(10)).info)


@pytest.fixture(params=["plain", "TLS"])
def contexts(request: pytest.FixtureRequest) -> Iterator[tuple[ssl.SSLContext | None, ssl.SSLContext | None]]:
    """Return the contexts of a server and of its client."""
    if request.param == "plain":
        yield None, None
        return
    authority = trustme.CA()
    of_server, of_client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(of_server)
    authority.configure_trust(of_client)
    yield of_server, of_client


async def test_a_stream_is_closed_while_its_thread_waits_for_an_event(
    contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None],
) -> None:
    of_server, of_client = contexts
    loop, first = asyncio.get_running_loop(), asyncio.Event()
    async with sending(CHUNKED + chunk(b'{"a": 1}\n'), ends=False, context=of_server) as url:
        client = Client(url, "1.41", within(10), of_client)
        stream = await asyncio.to_thread(client.events, 0, {})

        def read() -> None:
            try:
                for _ in stream:
                    loop.call_soon_threadsafe(first.set)
            except OSError:  # an end that the other side has not announced
                pass

        reading = asyncio.create_task(asyncio.to_thread(read))
        await first.wait()
        stream.close()
        async with asyncio.timeout(within(10)):
            await reading


async def test_the_path_of_an_url_comes_before_that_of_the_api() -> None:
    """As behind a proxy that serves several engines."""
    asked = list[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/engine-1/"
        assert await asyncio.to_thread(Client(url, "1.41", within(10)).info) == {}
    assert asked == [b"GET /engine-1/v1.41/info HTTP/1.1\r\n"]
