"""The token of the admin endpoint: its rules, and a proof of it that does not reveal it. Pure.

A proof answers a challenge (a nonce of the server) with an HMAC, keyed with the token, over the request and over the
address that the client believes that it asks. Who listens at that address without the token learns nothing that is of
use elsewhere: not the token, which is too long to be guessed from an HMAC, and no proof that a daemon at another
address takes. The server proves in the same way, over its answer, that it has the token.
"""

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

SCHEME = "Discovery-HMAC"
"""The authentication scheme of proofs, in `WWW-Authenticate`, `Authorization` and `Authentication-Info`."""
SHORTEST_TOKEN = 32
"""Characters of a token, at least: a program that has received a proof can try tokens offline, without any limit."""
LONGEST_TOKEN = 512
"""Characters of a token at most: with it a header stays far from what servers on the way take."""
PROOF_SECONDS = 30.0
"""Seconds for which a challenge can be answered."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""What RFC 6750 lets a bearer token have."""
_PARAMETER = re.compile(r'\s*([a-z]{1,20})="([A-Za-z0-9._~+/=-]{0,200})"\s*(?:,|$)')
_WAY_OUT = "write one with: openssl rand -hex 32"


class Proof(NamedTuple):
    """The answer to a challenge: the nonces of both sides, and the HMAC as hexadecimal digits."""

    nonce: str
    client: str
    mac: str

    @property
    def header(self) -> str:
        """The value of `Authorization`."""
        return f'{SCHEME} nonce="{self.nonce}", client="{self.client}", mac="{self.mac}"'


class Challenges:
    """The challenges of one server, which keeps none of them: each has its time and an HMAC of its own."""

    def __init__(self) -> None:
        """Draw a key of this server alone."""
        self._key = secrets.token_bytes(32)

    def issue(self, now: float) -> str:
        """Return a new nonce. `now` is a time in seconds, of any clock that only goes on."""
        text = f"{int(now * 1000)}.{secrets.token_urlsafe(16)}"
        return f"{text}.{_mac(self._key, text)}"

    def is_fresh(self, nonce: str, now: float) -> bool:
        """Return True if this server has issued `nonce` within the last `PROOF_SECONDS`."""
        text, _, mac = nonce.rpartition(".")
        if not same(mac, _mac(self._key, text)):
            return False
        return now - int(text.partition(".")[0]) / 1000 <= PROOF_SECONDS


def token_of(text: str) -> str:
    """Return the token that the text of a file holds: a line. Raises ValueError, which does not tell the text."""
    token = text.strip("\r\n\t ")
    if not token:
        raise ValueError(f"it is empty; {_WAY_OUT}")
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"it is no line of letters, digits and -._~+/= alone; {_WAY_OUT}")
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
        raise ValueError(f"it has {len(token)} characters, not {SHORTEST_TOKEN} to {LONGEST_TOKEN}; {_WAY_OUT}")
    return token


def same(one: str, other: str) -> bool:
    """Return True if the texts are equal, in a time that tells of neither its content nor its length."""
    return hmac.compare_digest(_digest(one), _digest(other))


def challenge(nonce: str) -> str:
    """Return the value of `WWW-Authenticate` that asks for a proof."""
    return f'{SCHEME} nonce="{nonce}"'


def nonce_of(challenges: str) -> str | None:
    """Return the nonce in the values of `WWW-Authenticate`, joined by commas; None without one."""
    _, found, rest = challenges.partition(f"{SCHEME} ")
    return _parameters(rest).get("nonce") if found else None


def prove(token: str, nonce: str, method: str, target: str, audience: str) -> Proof:
    """Answer a challenge. `audience` is the HOST:PORT that the client asks, as in its header `Host`."""
    client = secrets.token_urlsafe(16)
    return Proof(nonce, client, _proof(token, nonce, client, method, target, audience))


def proof_of(authorization: str) -> Proof | None:
    """Return the proof in a value of `Authorization`; None if it has none."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != SCHEME.lower():
        return None
    found = _parameters(rest)
    return Proof(found["nonce"], found["client"], found["mac"]) if found.keys() >= {"nonce", "client", "mac"} else None


def is_proven(token: str, proof: Proof, method: str, target: str, audience: str) -> bool:
    """Return True if the client that made `proof` has the token, and made it for this request and this audience.

    The nonce is for `Challenges.is_fresh` to judge, and the audience for the caller: it has to be an address of this
    server.
    """
    return same(proof.mac, _proof(token, proof.nonce, proof.client, method, target, audience))


def answer_mac(token: str, proof: Proof, status: int, body: bytes) -> str:
    """Return the HMAC by which the server proves that it has the token, over its answer to `proof`."""
    return _mac(token.encode(), "answer", proof.nonce, proof.client, str(status), hashlib.sha256(body).hexdigest())


def answer_header(token: str, proof: Proof, status: int, body: bytes) -> str:
    """Return the value of `Authentication-Info` for an answer to `proof`."""
    return f'{SCHEME} mac="{answer_mac(token, proof, status, body)}"'


def answer_is_proven(token: str, proof: Proof, status: int, body: bytes, header: str) -> bool:
    """Return True if `header`, the value of `Authentication-Info`, proves that the server has the token."""
    _, found, rest = header.partition(f"{SCHEME} ")
    return bool(found) and same(_parameters(rest).get("mac", ""), answer_mac(token, proof, status, body))


def _proof(token: str, nonce: str, client: str, method: str, target: str, audience: str) -> str:
    return _mac(token.encode(), "request", nonce, client, method, target, audience.lower())


def _mac(key: bytes, *parts: str) -> str:
    """Return the HMAC-SHA256 of the parts, each after its length: no two lists of parts are the same text."""
    text = b"".join(len(part).to_bytes(8) + part for part in (each.encode(errors="surrogateescape") for each in parts))
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while (match := _PARAMETER.match(text, at)) is not None:
        found.setdefault(match[1], match[2])
        at = match.end()
    return found
