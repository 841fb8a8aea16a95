"""The addresses of this machine in the metadata of its cloud.

The metadata service of every cloud here is at 169.254.169.254, an address of the link: no name is looked up, no
redirection is followed, and no proxy is used. Each cloud has paths or headers that no other cloud has.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any

from discovery.addresses.kinds import announceable, family_of
from discovery.addresses.rule import CloudAddresses

SERVICE = "169.254.169.254"
SECONDS = 3.0
"""Seconds for all requests together: the service answers within milliseconds, but delays the answers at boot."""
_CONNECT_SECONDS = 1.0
"""Seconds for a connection: on a machine without a metadata service the packets may go nowhere."""
_MOST_BYTES = 1 << 16
"""Bytes of an answer that are read: the longest is the list of a machine's private networks."""
_VALID_SECONDS = "60"
"""Seconds that a token of AWS is valid: a token is used at once."""
_HETZNER_IP = re.compile(r"^[ -]*ip:[ \t]*([0-9.]+)", re.MULTILINE)

Ask = Callable[..., "tuple[str, Mapping[str, str]] | None"]
"""Asks for a path, with headers and a method; returns the body and the headers, None for a status other than 200."""


class MetadataError(Exception):
    """The metadata service does not answer, or is the service of an unknown cloud. The text is a line for a person."""


def cloud_addresses(seconds: float = SECONDS) -> CloudAddresses:
    """Return the addresses of this machine in the metadata of its cloud, within `seconds`. Blocks.

    Raises MetadataError if there is no metadata service, or none of a known cloud.
    """
    deadline = time.monotonic() + seconds

    def ask(path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Any:
        return _ask(deadline, path, headers or {}, method)

    try:
        for cloud in (_gce, _digital_ocean, _hetzner, _openstack, _aws):
            if (found := cloud(ask)) is not None:
                return found
    except TimeoutError:
        raise MetadataError(f"the metadata service at {SERVICE} has not answered within {seconds:g} s") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MetadataError(f"the metadata service at {SERVICE} does not answer: {reason}") from None
    raise MetadataError(f"the metadata service at {SERVICE} belongs to no known cloud")


def _gce(ask: Ask) -> CloudAddresses | None:
    flavor = {"Metadata-Flavor": "Google"}
    interface = "/computeMetadata/v1/instance/network-interfaces/0"
    answer = ask(f"{interface}/ip", flavor)
    if answer is None or answer[1].get("Metadata-Flavor") != "Google":  # which a real service of GCE always sends
        return None
    public = ask(f"{interface}/access-configs/0/external-ip", flavor)
    return CloudAddresses("GCE", _address(answer), _address(public))


def _digital_ocean(ask: Ask) -> CloudAddresses | None:
    if ask("/metadata/v1/id") is None:
        return None
    interfaces = "/metadata/v1/interfaces"
    private, public = (ask(f"{interfaces}/{kind}/0/ipv4/address") for kind in ("private", "public"))
    return CloudAddresses("DigitalOcean", _address(private), _address(public))


def _hetzner(ask: Ask) -> CloudAddresses | None:
    metadata = "/hetzner/v1/metadata"
    if ask(f"{metadata}/instance-id") is None:
        return None
    networks = ask(f"{metadata}/private-networks")
    match = _HETZNER_IP.search(networks[0]) if networks is not None else None
    private = None if match is None else _usable(match[1])
    return CloudAddresses("Hetzner", private, _address(ask(f"{metadata}/public-ipv4")))


def _openstack(ask: Ask) -> CloudAddresses | None:
    if ask("/openstack/latest/meta_data.json") is None:
        return None
    return CloudAddresses("OpenStack", *_like_ec2(ask, {}))


def _aws(ask: Ask) -> CloudAddresses | None:
    token = ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": _VALID_SECONDS}, "PUT")
    if token is None or not re.fullmatch(r"[!-~]{1,1024}", token[0]):  # it becomes a header
        return None
    return CloudAddresses("AWS", *_like_ec2(ask, {"X-aws-ec2-metadata-token": token[0]}))


def _like_ec2(ask: Ask, headers: Mapping[str, str]) -> Iterator[str | None]:
    return (_address(ask(f"/latest/meta-data/{kind}-ipv4", headers)) for kind in ("local", "public"))


def _address(answer: tuple[str, Mapping[str, str]] | None) -> str | None:
    return None if answer is None else _usable(answer[0])


def _usable(text: str) -> str | None:
    """Return the address in an answer if other machines can reach the address: the answer comes from the network."""
    return text if family_of(text) and announceable(text) else None


def _ask(deadline: float, path: str, headers: Mapping[str, str], method: str) -> tuple[str, Mapping[str, str]] | None:
    """Return the body and the headers of the answer; None for a status other than 200. Raises OSError."""
    connection = HTTPConnection(SERVICE, 80)
    with _Timed(deadline) as sock:
        sock.connect((SERVICE, 80))
        connection.sock = sock
        connection.request(method, path, headers={**headers, "Connection": "close"})
        response = connection.getresponse()
        with response:
            if response.status != 200:  # also a redirection: the service is on the link, and nowhere else
                return None
            body = response.read(_MOST_BYTES).decode(errors="replace").strip()
            return body, dict(response.headers)


class _Timed(socket.socket):
    """A TCP socket whose operations raise TimeoutError once a deadline, of the monotonic clock, has passed."""

    def __init__(self, deadline: float) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._deadline = deadline

    def connect(self, address: Any) -> None:
        self.settimeout(min(_CONNECT_SECONDS, self._left()))
        super().connect(address)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.settimeout(self._left())
        super().sendall(data, flags)

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self.settimeout(self._left())
        return super().recv_into(*arguments, **options)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
