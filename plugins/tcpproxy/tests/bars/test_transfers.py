"""Every byte arrives, in both directions, however either side ends."""

import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.testing import within

from .load import Plane, StartPlane

MIB = 1 << 20
TRANSFERS = 24
RESETS = 8
NO_LINGER = struct.pack("ii", 1, 0)


class Pairs:
    """Connections through a worker: the client's socket, and the backend's."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(within(30))
        self._one_by_one = threading.Lock()
        plane.serve(self._listener.getsockname()[1])

    def open(self) -> tuple[socket.socket, socket.socket]:
        with self._one_by_one:
            client = self.plane.connect()
            server, _ = self._listener.accept()
        server.settimeout(within(60))
        return client, server

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def pairs(planes: StartPlane) -> Iterator[Pairs]:
    opened = Pairs(planes())
    yield opened
    opened.close()


@dataclass(frozen=True)
class Plan:
    """What one side does: how much it sends, in what way, and how it ends."""

    seed: int
    size: int
    stalls: bool
    waits: bool = False
    """Send nothing before the other side has sent everything, and its end."""
    resets: bool = False

    def send(self, sock: socket.socket, other_ended: threading.Event) -> str:
        """Send it all, and the end; returns the checksum of what was sent."""
        chance = random.Random(self.seed)
        block = memoryview(chance.randbytes(MIB + chance.randrange(4096)))
        checksum, left = hashlib.sha256(), self.size
        if self.waits:
            assert other_ended.wait(within(60))
        while left:
            start = chance.randrange(len(block))
            piece = block[start : start + min(left, chance.choice((1, 100, 1460, 65_536, 262_144, 262_145, MIB)))]
            sock.sendall(piece)
            checksum.update(piece)
            left -= len(piece)
            if self.stalls and chance.random() < 0.02:
                time.sleep(chance.random() * 0.05)  # a stall
        if self.resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            sock.close()
        else:
            sock.shutdown(socket.SHUT_WR)
        return checksum.hexdigest()


def receive(sock: socket.socket, plan: Plan, ended: threading.Event) -> tuple[int, str]:
    """Read to the end; the number of bytes, and their checksum."""
    chance = random.Random(-plan.seed)
    checksum, count = hashlib.sha256(), 0
    while data := sock.recv(chance.choice((1000, 65_536, MIB))):
        checksum.update(data)
        count += len(data)
        if plan.stalls and chance.random() < 0.01:
            time.sleep(chance.random() * 0.1)  # a slow reader
    ended.set()
    return count, checksum.hexdigest()


def transfer(pairs: Pairs, up: Plan, down: Plan, pool: ThreadPoolExecutor) -> None:
    """Both directions of one connection."""
    client, server = pairs.open()
    with client, server:
        up_ended, down_ended = threading.Event(), threading.Event()
        tasks = (
            pool.submit(up.send, client, down_ended),
            pool.submit(down.send, server, up_ended),
            pool.submit(receive, server, up, up_ended),
            pool.submit(receive, client, down, down_ended),
        )
        sent_up, sent_down, got_up, got_down = (task.result(100) for task in tasks)
    assert got_up == (up.size, sent_up)
    assert got_down == (down.size, sent_down)


def disturb(pairs: Pairs, plan: Plan, from_client: bool) -> None:
    """A connection that is reset by one side in the middle of what it sends: the other gets a beginning of it."""
    chance = random.Random(plan.seed)
    data = chance.randbytes(plan.size)
    client, server = pairs.open()
    ours, theirs = (client, server) if from_client else (server, client)
    got = b""
    with client, server:

        def read() -> None:
            nonlocal got
            try:
                while piece := theirs.recv(65_536):
                    got += piece
            except ConnectionResetError:
                return

        reader = threading.Thread(target=read)
        reader.start()
        ours.sendall(data)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        ours.close()
        reader.join(within(60))
        assert not reader.is_alive(), "the reset was not passed on"
    assert data.startswith(got)


@pytest.mark.parametrize(
    "total", [pytest.param(48 * MIB, id="48MiB"), pytest.param(1024 * MIB, id="1GiB", marks=pytest.mark.faults)]
)
def test_24_transfers_at_a_time_are_exact_through_half_closes_stalls_and_resets(pairs: Pairs, total: int) -> None:
    chance = random.Random(total)
    shares = [chance.random() + 0.2 for _ in range(2 * TRANSFERS)]
    sizes = [int(total * share / sum(shares)) for share in shares]
    sizes[0] += total - sum(sizes)
    plans = [Plan(seed, size, stalls=chance.random() < 0.7) for seed, size in enumerate(sizes, 1)]
    done = threading.Event()

    def resetting(number: int) -> int:
        chance, count = random.Random(number), 0
        while not done.is_set() or count < 3:
            plan = Plan(chance.randrange(1 << 30), chance.randrange(2 * MIB), stalls=False, resets=True)
            disturb(pairs, plan, from_client=bool(number % 2))
            count += 1
        return count

    with ThreadPoolExecutor(5 * TRANSFERS + RESETS) as pool:
        disturbing = [pool.submit(resetting, number) for number in range(RESETS)]
        tasks = []
        for number in range(TRANSFERS):
            up, down = plans[2 * number : 2 * number + 2]
            if number % 3 == 0:  # one side answers only after the other's half-close
                down = Plan(down.seed, down.size, down.stalls, waits=True)
            tasks.append(pool.submit(transfer, pairs, up, down, pool))
        try:
            for task in tasks:
                task.result(110)
        finally:
            done.set()
        assert sum(task.result(60) for task in disturbing) >= 3 * RESETS


SIZES = st.lists(st.sampled_from((0, 1, 7, 1460, 16_384, 65_536, 262_143, 262_144, 262_145, 300_000)), max_size=4)


@given(up=SIZES, down=SIZES, order=st.sampled_from(("together", "client first", "server first")), seed=st.integers())
def test_random_data_arrives_in_both_directions(
    pairs: Pairs, up: list[int], down: list[int], order: str, seed: int
) -> None:
    data = random.Random(seed)
    sent = {"up": [data.randbytes(size) for size in up], "down": [data.randbytes(size) for size in down]}
    ends = {"up": threading.Event(), "down": threading.Event()}
    got: dict[str, bytes] = {}

    def send(sock: socket.socket, pieces: list[bytes], after: threading.Event | None) -> None:
        if after is not None:
            assert after.wait(within(30))
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)

    def read(sock: socket.socket, name: str) -> None:
        pieces = []
        while piece := sock.recv(100_000):
            pieces.append(piece)
        got[name] = b"".join(pieces)
        ends[name].set()

    client, server = pairs.open()
    with client, server, ThreadPoolExecutor(4) as pool:
        tasks = (
            pool.submit(read, server, "up"),
            pool.submit(read, client, "down"),
            pool.submit(send, client, sent["up"], ends["down"] if order == "server first" else None),
            pool.submit(send, server, sent["down"], ends["up"] if order == "client first" else None),
        )
        for task in tasks:
            task.result(60)
    assert got == {name: b"".join(pieces) for name, pieces in sent.items()}


def test_a_reset_is_passed_on_as_a_reset(pairs: Pairs) -> None:
    for reverse in (False, True):
        ours, theirs = reversed(pairs.open()) if reverse else pairs.open()
        with ours, theirs:
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            ours.close()
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)
