"""The token of a user: asked for when first needed, and again when a member no longer knows it."""

import asyncio
from typing import Protocol

from discovery.registry.etcd.failures import LoginNotNeededError
from discovery.registry.etcd.messages import AUTHENTICATE, AuthenticateRequest, Message, Method
from discovery.registry.etcd.settings import Login


class Member(Protocol):
    """A member of the cluster, to which a user logs in."""

    async def ask(self, method: Method, request: Message, timeout: float, token: str | None) -> Message:
        """Call `method` once, within `timeout` seconds, as the user of `token`. Returns the answer."""


class Tokens:
    """Holds the token of a client; each member forgets the token when the token is unused for a while."""

    def __init__(self, login: Login | None) -> None:
        """Without a login, no token is ever asked for or sent."""
        self._login = login
        self._token: str | None = None
        self._renewing = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """True if there is a user to log in."""
        return self._login is not None

    def forget(self) -> None:
        """Log in again before the next call."""
        self._token = None

    async def current(self, member: Member, timeout: float) -> str | None:
        """The token to send; empty where the cluster asks for none. Raises as `renew` does."""
        if self._login is None or self._token is not None:
            return self._token
        return await self.renew(member, timeout, None)

    async def renew(self, member: Member, timeout: float, stale: str | None) -> str | None:
        """A token other than `stale`, from the member at hand, in `timeout` seconds.

        Raises AccessDeniedError for a wrong user or password, MemberUnavailableError if the member does not answer.
        """
        if self._login is None:
            return None
        async with self._renewing:
            if self._token is None or self._token == stale:
                request = AuthenticateRequest(name=self._login.user, password=self._login.password())
                try:
                    self._token = (await member.ask(AUTHENTICATE, request, timeout, None)).token
                except LoginNotNeededError:
                    self._token = ""
            return self._token
