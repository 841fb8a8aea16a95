"""A gRPC program without a proxy: it opens `xds:///web` with the bootstrap that `discovery xds bootstrap` prints."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from xds_driving import Driven, driving

from discovery import Update, diff
from discovery.testing import backend, eventually, snapshot, within
from discovery_xds.bootstrap import Node
from discovery_xds.bootstrap import grpc as grpc_bootstrap

PROGRAM = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/test.Who/Are")
for line in sys.stdin:
    answers = []
    for _ in range(int(line)):
        try:
            answers.append(call(b"", timeout=10).decode())
        except grpc.RpcError as error:
            answers.append(f"failed: {error.code().name}")
    print(",".join(answers), flush=True)
"""


class Origin(grpc.GenericRpcHandler):
    """A gRPC server that answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self.name.encode())


@contextmanager
def origins(*names: str) -> Iterator[list[int]]:
    """Servers, by their ports."""
    servers = [grpc.server(futures.ThreadPoolExecutor(2), handlers=(Origin(name),)) for name in names]
    try:
        ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
        for server in servers:
            server.start()
        yield ports
    finally:
        for server in servers:
            server.stop(None)


class Program:
    """The gRPC program, in a process of its own: the bootstrap is read when grpc is imported."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def calls(self, number: int) -> list[str]:
        """The answers to that many calls, one after the other."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n".encode())
        async with asyncio.timeout(within(60)):
            return (await self.process.stdout.readline()).decode().strip().split(",")

    async def reaches(self, *names: str) -> None:
        """Wait until the calls reach exactly these servers."""

        async def reached() -> bool:
            return set(await self.calls(20)) == set(names)

        await eventually(reached, f"calls reach {names}", timeout=30)


@asynccontextmanager
async def program(
    driven: Driven, directory: Path, target: str = "xds:///web", **variables: str
) -> AsyncIterator[Program]:
    own = {"GRPC_XDS_BOOTSTRAP_CONFIG": grpc_bootstrap(driven.address, Node("program")), **variables}
    environment = {**os.environ, **own}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, target, env=environment, cwd=directory,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Program(process)
    finally:
        process.kill()
        await process.wait()


async def test_a_program_follows_the_backends_and_their_weights(tmp_path: Path) -> None:
    with origins("a", "b") as (a, b):
        async with driving() as driven, program(driven, tmp_path) as client:
            await driven.apply(backend(id="a", port=a))
            await client.reaches("a")
            await driven.apply(backend(id="a", port=a, weight=1), backend(id="b", port=b, weight=3))
            await client.reaches("a", "b")
            answers = await client.calls(200)
            assert 125 < answers.count("b") < 175  # 150 expected; 4 standard deviations
            await driven.apply(backend(id="a", port=a, state="draining"), backend(id="b", port=b))
            await client.reaches("b")

            async def is_confirmed() -> bool:
                (node,) = await driven.nodes()
                assert (node["node"], node["up_to_date"], node["rejected"]) == ("program", True, {})
                return bool(node["live_revision"] == 3)

            await eventually(is_confirmed)
            (lines,) = (await driven.consumer.explain([backend(id="b", port=b)])).values()
            assert lines[0] == f"cluster web: endpoint 127.0.0.1:{b} weight 1 priority 0"
            assert lines[-1].endswith(": acknowledged by program")


@pytest.mark.swap
async def test_calls_to_a_service_that_does_not_exist_fail_at_once(tmp_path: Path) -> None:
    """A program without the variable waits 15 s, which is longer than the calls, for a service that may yet come."""
    async with (
        driving() as driven,
        program(driven, tmp_path, "xds:///wbe", GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING="true") as client,
    ):
        await driven.apply(backend())
        assert await client.calls(1) == ["failed: UNAVAILABLE"]


@pytest.mark.swap
async def test_backends_with_common_addresses_are_accepted(tmp_path: Path) -> None:
    """A program refuses all endpoints of a service of which an address stands twice."""
    with origins("a") as (a,):
        async with driving() as driven, program(driven, tmp_path) as client:
            found = {("a.example", a): ("127.0.0.1", "127.0.0.2"), ("b.example", a): ("127.0.0.3", "127.0.0.2")}
            backends = [backend(id=name, host=f"{name}.example", port=a) for name in "ab"]
            state = snapshot(*backends)
            await driven.consumer.apply(Update(state, None, diff(None, state), addresses=found))
            await client.reaches("a")
            assert (await driven.nodes())[0]["rejected"] == {}


@pytest.mark.swap
@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "random", "source", "uri", "hdr(x-user)"])
async def test_no_balance_algorithm_is_rejected_by_a_program(balance: str, tmp_path: Path) -> None:
    with origins("a") as (a,):
        options = {"services": {"web": {"balance": balance, "check": {"path": "/up"}}}}
        async with driving(**options) as driven, program(driven, tmp_path) as client:
            await driven.apply(backend(id="a", port=a))
            await client.reaches("a")
            assert (await driven.nodes())[0]["rejected"] == {}


@pytest.mark.swap
async def test_calls_fail_while_a_service_does_not_exist_and_work_when_it_comes_again(tmp_path: Path) -> None:
    with origins("a") as (a,):
        async with driving() as driven, program(driven, tmp_path) as client:
            web, other = backend(id="a", port=a), backend(service="other")
            await driven.apply(other, web)
            await client.reaches("a")
            await driven.apply(other)
            await client.reaches("failed: UNAVAILABLE")
            await driven.apply(other, web)
            await client.reaches("a")


@pytest.mark.swap
async def test_no_call_fails_through_50_changes(tmp_path: Path) -> None:
    with origins("a", "b", "c") as ports:
        async with driving() as driven, program(driven, tmp_path) as client:
            backends = [backend(id=f"b{port}", port=port) for port in ports]
            await driven.apply(*backends)
            await client.reaches("a", "b", "c")
            calling = asyncio.ensure_future(client.calls(10_000))
            for number in range(50):
                await driven.apply(*(each for index, each in enumerate(backends) if index != number % 3))
                await eventually(lambda: driven.figure("streams_behind") == 0)
            assert not [answer for answer in await calling if answer.startswith("failed")]
