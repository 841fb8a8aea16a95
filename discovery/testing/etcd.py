"""An etcd cluster for tests of faults, and a writer that makes each change exactly once."""

import asyncio
import json
import re
import signal
import threading
import uuid
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from discovery.errors import RegistryUnavailableError
from discovery.registry import RegistryURL
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.messages import (
    EQUAL,
    TARGET_CREATE,
    TXN,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from discovery.registry.etcd.settings import EtcdSettings
from discovery.system.embedded import EmbeddedEtcd

_FROM = re.compile(rb"X-Server-From: ([0-9a-f]+)", re.IGNORECASE)
_RETRY_SECONDS = 0.2
"""Seconds between two attempts to write while no member takes the change."""
_MEMBERS = 3
"""Members of the cluster: the fewest of which one may fail."""


class EtcdWriter:
    """An etcd client that changes keys under a registry URL's prefix; each change happens exactly once.

    An asynchronous context manager.
    """

    def __init__(self, url: str) -> None:
        """Use the cluster and the prefix of `url`. No I/O."""
        settings = EtcdSettings.from_url(RegistryURL.parse(url))
        self.client = Client(settings)
        self._prefix = settings.prefix
        self._log = settings.prefix.removesuffix(b"/") + f".log/{uuid.uuid4().hex}/".encode()
        self._count = 0

    async def change(self, puts: Mapping[str, bytes], *deletes: str) -> int:
        """Put and delete in a single transaction, and return its revision. Retries until the transaction has happened.

        A transaction whose answer is lost may have happened. So each transaction also writes a key of its own (under
        `<prefix>.log/`), and changes nothing if that key exists.
        """
        self._count += 1
        entry = self._log + str(self._count).encode()
        operations = [RequestOp(request_put=PutRequest(key=self._key(key), value=puts[key])) for key in puts]
        operations += [RequestOp(request_delete_range=DeleteRangeRequest(key=self._key(key))) for key in deletes]
        request = TxnRequest(
            compare=[Compare(result=EQUAL, target=TARGET_CREATE, key=entry, create_revision=0)],
            success=[*operations, RequestOp(request_put=PutRequest(key=entry, value=b"."))],
            failure=[RequestOp(request_range=RangeRequest(key=entry))],
        )
        while True:
            try:
                answer = await self.client.call(TXN, request)
            except RegistryUnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if answer.succeeded:
                return int(answer.header.revision)
            return int(answer.responses[0].response_range.kvs[0].mod_revision)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def __aenter__(self) -> Self:
        """Return the writer. The first change connects."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the writer's connections."""
        await self.close()

    def _key(self, key: str) -> bytes:
        return self._prefix + key.encode()


class EtcdCluster:
    """Three members on loopback, each of whose traffic with the others can be cut. A context manager, as its members.

    Kill, stop and start the members themselves; `cut` and `heal` are for the network between them.
    """

    def __init__(self, *options: str, program: Path | None = None) -> None:
        """Prepare, without starting; `options` are etcd's own flags, `program` is another etcd than the usual one."""
        self.members: list[EmbeddedEtcd] = []
        while len(self.members) < _MEMBERS:
            member = EmbeddedEtcd(*options, program=program)
            taken = {port for other in self.members for port in (other.port, other.peer_port)}
            if not taken & {member.port, member.peer_port}:
                self.members.append(member)
        self._ids: list[int] = []
        self._cut: set[int] = set()
        self._links: dict[tuple[int | None, int], set[asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="peer proxies", daemon=True)

    @property
    def url(self) -> str:
        """The registry URL of all members, without a prefix."""
        return "etcd://" + ",".join(member.endpoint for member in self.members)

    def cut(self, at: int) -> None:
        """Cut the network between the member with the index `at` and the other members. Its clients still reach it."""
        self._cut.add(at)
        self._run(self._drop(at))

    def heal(self) -> None:
        """Restore the network between all members."""
        self._cut.clear()

    def start_all(self) -> None:
        """Start every member that does not run, and wait until all are healthy."""
        self._start_missing()
        for member in self.members:
            member.wait_ready()

    def __enter__(self) -> Self:
        """Start every member, and wait until all are healthy."""
        self._thread.start()
        try:
            peers = [f"http://127.0.0.1:{self._run(self._listen(at))}" for at in range(_MEMBERS)]
            cluster = ",".join(f"m{at}={peer}" for at, peer in enumerate(peers))
            for at, member in enumerate(self.members):
                member.options += ["--name", f"m{at}", "--initial-cluster", cluster]
                member.options += ["--initial-advertise-peer-urls", peers[at]]
                member.options += ["--heartbeat-interval", "100", "--election-timeout", "1000"]
            self._start_missing()
            # Side by side, since a member waits for another. On other ports it goes on: all know the proxies alone.
            with ThreadPoolExecutor(_MEMBERS) as waiting:
                list(waiting.map(EmbeddedEtcd.wait_first_ready, self.members))
            for member in self.members:
                status = json.loads(member.ctl("endpoint", "status", "--write-out=json"))
                self._ids.append(status[0]["Status"]["header"]["member_id"])
        except BaseException:  # also a KeyboardInterrupt: no process stays
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every member and remove its data."""
        for member in self.members:
            if member.running:
                member.send_signal(signal.SIGKILL)
            member.stop()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start_missing(self) -> None:
        for member in self.members:
            if not member.running:
                member.start(wait=False)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, at: int) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
                await self._forward(at, reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _forward(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection to the peer port of `target`. The first request has the id of the sending member."""
        head = await reader.readuntil(b"\r\n\r\n")
        sender = _FROM.search(head)
        number = int(sender[1], 16) if sender else None
        source = self._ids.index(number) if number in self._ids else None
        if {source, target} & self._cut:
            return
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.members[target].peer_port)
        link = self._links.setdefault((source, target), set())
        link |= {writer, to_writer}
        try:
            to_writer.write(head)
            await asyncio.gather(_pump(reader, to_writer), _pump(to_reader, writer))
        finally:
            to_writer.close()
            link -= {writer, to_writer}

    async def _drop(self, at: int) -> None:
        for (source, target), writers in self._links.items():
            # A connection that began before the members' ids were known may be from any member.
            if at in {source, target} or source is None:
                for writer in list(writers):
                    writer.transport.abort()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
