"""A channel to a member: calls, and the stream of a watch. No exception of gRPC leaves this module."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from discovery.errors import RegistryError
from discovery.registry.etcd.failures import MemberUnavailableError, TokenExpiredError, failure
from discovery.registry.etcd.login import Tokens
from discovery.registry.etcd.messages import Message, Method
from discovery.registry.etcd.settings import TLSMaterial
from discovery.registry.etcd.targets import Targets
from discovery.system.asyncio_tools import is_being_cancelled
from discovery.system.certificates import expired

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # Milliseconds. A hung process keeps its connection open: ping_timeout detects that, keepalive_timeout does not.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # etcd closes a connection that pings without calls.
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Milliseconds. A cluster that is reachable again must be noticed within a second.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 600),
    # No limit: a listing, or the events that a watch catches up on, may exceed the default of 4 MiB.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)
# With this metadata a member without a leader refuses the call, instead of answering from its old state.
_METADATA = (("hasleader", "true"),)


class Connection:
    """A connection to a single member. Raises only errors of `failures` and `discovery.errors`."""

    def __init__(
        self,
        endpoint: str,
        tokens: Tokens,
        tls: TLSMaterial | None = None,
        server_name: str | None = None,
        targets: Targets | None = None,
    ) -> None:
        """Keep the parameters; the first call connects. For another address or certificate make another connection.

        `server_name` is the name that the member's certificate must have; by default the host of `endpoint`.
        """
        self.endpoint = endpoint
        self._tls = tls
        self._server_name = server_name
        self._targets = targets or Targets()
        self._tokens = tokens
        self._answered = False
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    async def call(self, method: Method, request: Message, timeout: float) -> Message:
        """Call `method`; if the token has expired, log in and call again. Each step has `timeout` seconds."""
        token = await self._tokens.current(self, timeout)
        try:
            return await self.ask(method, request, timeout, token)
        except TokenExpiredError:
            if not self._tokens.usable:
                raise
            token = await self._tokens.renew(self, timeout, token)
            return await self.ask(method, request, timeout, token)

    async def ask(self, method: Method, request: Message, timeout: float, token: str | None) -> Message:
        """Call `method` once, as the user of `token`. Return the answer; of a streaming method, the first answer."""
        channel = await self._connect(timeout)
        try:
            if method.streaming:
                call = _stream(channel, method)(_once(request), timeout=timeout, metadata=_metadata(token))
                try:
                    answer = await call.read()
                finally:
                    call.cancel()
            else:
                answer = await _unary(channel, method)(request, timeout=timeout, metadata=_metadata(token))
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        except grpc.aio.UsageError:  # the connection was closed during the login
            raise MemberUnavailableError(f"etcd {self.endpoint}: the connection was closed") from None
        except asyncio.CancelledError:
            if is_being_cancelled():  # otherwise gRPC has cancelled the call, not the caller's task
                raise
            raise MemberUnavailableError(f"etcd {self.endpoint}: the connection was closed") from None
        self._answered = True
        if answer is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise MemberUnavailableError(f"etcd {self.endpoint}: it ended the call without an answer")
        return answer

    async def open(self, method: Method, timeout: float) -> "Stream":
        """Open a stream without a time limit. The name lookup and the login, if needed, have `timeout` seconds each."""
        token = await self._tokens.current(self, timeout)
        channel = await self._connect(timeout)
        try:
            return Stream(self.endpoint, _stream(channel, method)(metadata=_metadata(token)))
        except grpc.aio.UsageError:
            raise MemberUnavailableError(f"etcd {self.endpoint}: the connection was closed") from None

    async def close(self, grace: float | None = None) -> None:
        """Close the channel. Calls in progress have `grace` seconds to end; None cancels them at once."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close(grace)

    async def _connect(self, timeout: float) -> grpc.aio.Channel:
        """Return the channel, made on first use. The channel connects, and connects again after a loss, by itself."""
        if self._channel is None:
            target = await self._targets.of(self.endpoint, timeout)
            if self._closed:
                raise MemberUnavailableError(f"etcd {self.endpoint}: the connection was closed")
            return self._channel_to(target)
        return self._channel

    def _channel_to(self, target: str) -> grpc.aio.Channel:
        if self._channel is None:
            options = _OPTIONS
            if target != self.endpoint:
                options += (("grpc.default_authority", self.endpoint),)
            if self._tls is None:
                self._channel = grpc.aio.insecure_channel(target, options)
            else:
                if name := self._server_name or (target != self.endpoint and self.endpoint.rpartition(":")[0]):
                    options += (("grpc.ssl_target_name_override", name),)
                credentials = grpc.ssl_channel_credentials(self._tls.ca, self._tls.key, self._tls.cert)
                self._channel = grpc.aio.secure_channel(target, credentials, options)
        return self._channel

    def _failure(self, error: grpc.aio.AioRpcError) -> RegistryError:
        reported = failure(self.endpoint, error)
        refused = "the client certificate" in str(reported) or "closed the connection" in str(reported)
        if refused and self._tls is not None and (when := expired(self._tls.cert)):
            return MemberUnavailableError(
                f"etcd {self.endpoint}: it refuses the client certificate, which expired on {when}:"
                " replace the files of ?cert=FILE&key=FILE"
            )
        if self._answered or "closed the connection" not in str(reported):
            return reported
        if self._tls is None:
            return MemberUnavailableError(f"{reported}: if it speaks TLS, write etcds://")
        return MemberUnavailableError(f"{reported}: if it requires a client certificate, see ?cert=FILE&key=FILE")


class Stream:
    """The requests and responses of a stream. Only `receive` reads a response, so no responses accumulate in memory."""

    def __init__(self, endpoint: str, call: Any) -> None:
        """Use the open gRPC stream `call` to the member at `endpoint`."""
        self.endpoint = endpoint
        self.waiting_since: float | None = None
        """The time (time.monotonic) at which the present `receive` began; None outside `receive`."""
        self._call = call
        self._given_up = "the connection was closed"

    async def send(self, request: Message) -> None:
        """Send a request. If the stream has ended, nothing is sent, and the next `receive` raises the reason."""
        try:
            await self._call.write(request)
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            return
        except asyncio.CancelledError:
            if is_being_cancelled():  # otherwise gRPC has cancelled the call, not the caller's task
                raise

    async def receive(self) -> Message:
        """Return the next response, without a time limit. Raises RegistryError when the stream has ended."""
        self.waiting_since = time.monotonic()
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise failure(self.endpoint, error) from None
        except asyncio.CancelledError:
            if is_being_cancelled():  # otherwise gRPC has cancelled the call, not the caller's task
                raise
            raise MemberUnavailableError(f"etcd {self.endpoint}: {self._given_up}") from None
        finally:
            self.waiting_since = None
        if response is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise MemberUnavailableError(f"etcd {self.endpoint}: it ended the watch")
        return response

    def give_up(self, why: str) -> None:
        """End the stream, without waiting for the member. A `receive` in progress raises an error with `why`."""
        self._given_up = why
        self._call.cancel()

    def close(self) -> None:
        """End the stream. Idempotent."""
        self._call.cancel()


async def _once(request: Message) -> AsyncIterator[Message]:
    yield request


def _unary(channel: grpc.aio.Channel, method: Method) -> Any:
    return channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)


def _stream(channel: grpc.aio.Channel, method: Method) -> Any:
    return channel.stream_stream(method.path, method.request.SerializeToString, method.response.FromString)


def _metadata(token: str | None) -> Sequence[tuple[str, str]]:
    return (*_METADATA, ("token", token)) if token else _METADATA
