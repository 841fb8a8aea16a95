"""The members of the cluster: which there are, by the cluster's own list, and how each is, by its own word.

Only endpoints that the registry's URL names are asked. What the cluster's list names is shown and never connected to:
no address becomes the receiver of a password, a token or a certificate because a cluster says so. Each survey has
connections of its own, so that a member which hangs delays no other call, and no watch.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from discovery.errors import AccessDeniedError, RegistryError
from discovery.registry.base import Member, Membership
from discovery.registry.etcd.client import Client
from discovery.registry.etcd.connection import Connection
from discovery.registry.etcd.failures import reason
from discovery.registry.etcd.messages import MEMBER_LIST, STATUS, MemberListRequest, Message, Method, StatusRequest

MEMBER_SECONDS: Final = 1.0
"""Seconds in which a member has to tell all: somebody waits. One that is well takes a few milliseconds."""
_NOT_ASKED = "the registry's URL does not name its address"


class Answer(NamedTuple):
    """What the member at `endpoint` tells.

    `status` is its StatusResponse, `listed` its MemberListResponse; None if it tells none. `failure` is why it has not
    told everything, `refused` why the user may not read the list; None if that is not so.
    """

    endpoint: str
    status: Message | None = None
    listed: Message | None = None
    failure: str | None = None
    refused: str | None = None


class Survey:
    """Asks the members that the URL of a client names. For a single event loop."""

    def __init__(self, client: Client, seconds: float = MEMBER_SECONDS) -> None:
        """Prepare; each member has `seconds` for its answer. No I/O."""
        self._client = client
        self._seconds = seconds
        self._known: dict[str, int] = {}

    async def take(self) -> Membership:
        """Ask all members at the same time, and return what they tell."""
        endpoints = self._client.settings.endpoints
        answers = await asyncio.gather(*(_ask(self._client, endpoint, self._seconds) for endpoint in endpoints))
        told = {each.endpoint: each.status.header.member_id for each in answers if each.status is not None}
        self._known |= told
        return joined(answers, self._known)


def joined(answers: Sequence[Answer], known: Mapping[str, int]) -> Membership:
    """Return the members as the answers tell them. `known` has the ids of members that have answered before. Pure."""
    leader = next((each.status.leader for each in answers if each.status is not None and each.status.leader), None)
    listings = [each for each in answers if each.listed is not None]
    # The leader's list comes first: another member's may lag behind.
    listings.sort(key=lambda each: not (each.status is not None and each.status.header.member_id == leader))
    listed = {each.ID: each for each in listings[0].listed.members} if listings and listings[0].listed else {}
    by_address = {**known, **{_address(url): number for number, each in listed.items() for url in each.clientURLs}}
    found: dict[int, Answer] = {}
    members = []
    for answer in answers:
        number = answer.status.header.member_id if answer.status is not None else by_address.get(answer.endpoint)
        if number is None:
            members.append(Member("", (answer.endpoint,), reason=answer.failure))
        elif number not in found or found[number].status is None:
            found[number] = answer
    members += [_member(number, found.get(number), listed.get(number), leader) for number in {**listed, **found}]
    members.sort(key=lambda each: (each.name, each.endpoints))
    return Membership(tuple(members), _unknown(answers) if not listings else None)


def _member(number: int, answer: Answer | None, listed: Message | None, leader: int | None) -> Member:
    status = answer.status if answer is not None else None
    return Member(
        name=listed.name if listed is not None else "",
        endpoints=tuple(_endpoints(answer, listed)),
        leads=None if leader is None else number == leader,
        votes=not (listed is not None and listed.isLearner),
        version=None if status is None else status.version,
        size=None if status is None else status.dbSize,
        asked=answer is not None,
        reason=_NOT_ASKED if answer is None else answer.failure,
    )


def _endpoints(answer: Answer | None, listed: Message | None) -> Iterator[str]:
    """Yield the endpoint that was asked, or else the addresses of the cluster's list."""
    if answer is not None:
        yield answer.endpoint
    elif listed is not None:
        yield from dict.fromkeys(map(_address, listed.clientURLs))


def _unknown(answers: Iterable[Answer]) -> str | None:
    refused = next((each.refused for each in answers if each.refused is not None), None)
    return None if refused is None else f"the cluster's list of members is not known: {refused}"


def _address(url: str) -> str:
    """Return `HOST:PORT` of a member's URL for clients."""
    return url.partition("://")[2].partition("/")[0]


async def _ask(client: Client, endpoint: str, seconds: float) -> Answer:
    try:
        connection = client.connect(endpoint)
    except RegistryError as error:
        return Answer(endpoint, failure=reason(endpoint, error))
    answer = Answer(endpoint)
    try:
        async with asyncio.timeout(seconds):
            answer = answer._replace(status=await _call(connection, STATUS, StatusRequest(), seconds))
            answer = answer._replace(listed=await _call(connection, MEMBER_LIST, MemberListRequest(), seconds))
    except TimeoutError:
        return answer._replace(failure=f"no answer within {seconds:g} s")
    except AccessDeniedError as error:
        if answer.status is not None:
            return answer._replace(refused=reason(endpoint, error))
        return answer._replace(failure=reason(endpoint, error), refused=reason(endpoint, error))
    except RegistryError as error:
        return answer._replace(failure=reason(endpoint, error))
    finally:
        await connection.close()
    return answer


async def _call(connection: Connection, method: Method, request: Message, seconds: float) -> Message:
    """Call `method` without a login, which most versions answer; log in only if the member asks for that.

    A login at a member that hangs would hold up the logins of other calls.
    """
    try:
        return await connection.ask(method, request, seconds, None)
    except AccessDeniedError:
        return await connection.call(method, request, seconds)
