"""Waits until any of several keys is removed, by watches on these keys that report no puts."""

import asyncio
from collections.abc import Sequence

from discovery.registry.etcd.client import Client, rounds
from discovery.registry.etcd.connection import Stream
from discovery.registry.etcd.failures import MemberUnavailableError, explain
from discovery.registry.etcd.messages import DELETE, NO_PUTS, TXN, WATCH, TxnRequest, WatchCreateRequest, WatchRequest
from discovery.registry.etcd.transactions import present

_CHUNK = 100
"""Comparisons in a transaction: etcd's default limit is 128."""


async def until_removed(client: Client, names: Sequence[bytes]) -> None:
    """Wait until any of the keys `names` is absent. If a member fails, another member is used.

    Raises as `Client.call` does for a refusal.
    """
    retries = rounds()
    while True:
        try:
            await _watch(client, names)
        except MemberUnavailableError:
            await asyncio.sleep(next(retries))
        else:
            return


async def _watch(client: Client, names: Sequence[bytes]) -> None:
    stream = await client.open(WATCH)
    # Requests are sent while responses are read: a member that cannot send its responses reads no more requests.
    asking = asyncio.ensure_future(_ask(stream, names))
    try:
        created = 0
        while True:
            response = await stream.receive()
            if response.canceled:
                raise explain(stream.endpoint, None, response.cancel_reason or "the watch was canceled")
            if any(event.type == DELETE for event in response.events):
                return
            created += response.created
            # When every key is watched, one read finds the keys that were removed before their watch began.
            if response.created and created == len(names) and not await _all_there(client, names):
                return
    finally:
        stream.close()
        asking.cancel()


async def _ask(stream: Stream, names: Sequence[bytes]) -> None:
    for name in names:
        await stream.send(WatchRequest(create_request=WatchCreateRequest(key=name, filters=[NO_PUTS])))


async def _all_there(client: Client, names: Sequence[bytes]) -> bool:
    for start in range(0, len(names), _CHUNK):
        there = [present(name) for name in names[start : start + _CHUNK]]
        if not (await client.call(TXN, TxnRequest(compare=there))).succeeded:
            return False
    return True
