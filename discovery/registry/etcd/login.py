"""The authentication token of a user: requested on first use, and again when a member has forgotten the token."""

import asyncio
from typing import Protocol

from discovery.registry.etcd.failures import LoginNotNeededError
from discovery.registry.etcd.messages import AUTHENTICATE, AuthenticateRequest, Message, Method
from discovery.registry.etcd.settings import Login


class Member(Protocol):
    """A member of the cluster, to which a user logs in."""

    async def ask(self, method: Method, request: Message, timeout: float, token: str | None) -> Message:
        """Call `method` once, within `timeout` seconds, as the user of `token`. Return the answer."""


class Tokens:
    """Holds the token of a client. Each member forgets a token that was not used for a while."""

    def __init__(self, login: Login | None) -> None:
        """Keep the login; with None, the client uses no token."""
        self._login = login
        self._token: str | None = None
        self._renewing = asyncio.Lock()

    @property
    def usable(self) -> bool:
        """True if the client has a user to log in."""
        return self._login is not None

    def forget(self) -> None:
        """Discard the token, so that the next call logs in again."""
        self._token = None

    async def current(self, member: Member, timeout: float) -> str | None:
        """Return the token to send: None without a user, empty if the cluster requires no token. Raises as `renew`."""
        if self._login is None or self._token is not None:
            return self._token
        return await self.renew(member, timeout, None)

    async def renew(self, member: Member, timeout: float, stale: str | None) -> str | None:
        """Return a token other than `stale`. Logs in at `member`, within `timeout` seconds, if there is no such token.

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
