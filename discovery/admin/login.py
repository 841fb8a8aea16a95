"""The forms by which a person logs in at the admin endpoint and out, and the cookie of the session between."""

import base64
import hashlib
import time
from html import escape
from urllib.parse import parse_qsl

from aiohttp import web

from discovery.admin.sessions import SESSION_SECONDS, Sessions

LOGIN, LOGOUT = "/login", "/logout"
_LONGEST_ADDRESS = 4000
"""Characters of an address to go on to: longer ones are no address of ours."""
_STYLE = (
    ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}"
    "a{color:LinkText}"
    "main{max-width:24rem;margin:15vh auto;padding:0 1rem}"
    "input,button{font:inherit;box-sizing:border-box;width:100%;padding:.5rem;margin:.25rem 0 1rem}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    # Without a referrer a browser sends the origin `null`; only over TLS and at loopback it tells the site otherwise.
    "Referrer-Policy": "same-origin",
}
_HOST_DIGITS = 12
"""Digits of a hash in the cookie's name: a browser has cookies of a few daemons of one host."""
_MOST_FIELDS = 10
"""Fields of a form that are read: ours has two."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} - discovery</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><main><h1>discovery</h1>{contents}</main></body></html>
"""
_FORM = """{error}
<form method="post" action="/login">
<input type="hidden" name="next" value="{next}">
<label for="token">Token of this daemon (the file admin_token_file)</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button>
</form>"""
_QUESTION = """
<form method="post" action="/logout"><p>End your session at this daemon?</p><button>Log out</button></form>
<p><a href="/">Back</a></p>"""


def wants_form(request: web.Request) -> bool:
    """Return True if a person looks at the answer: a browser that loads a page."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def form(status: int, address: str, error: str = "") -> web.Response:
    """Return the form. `address` is where to go on to afterwards."""
    told = f'<p role="alert">{escape(error)}</p>' if error else ""
    contents = _FORM.format(error=told, next=escape(own_address(address)))
    text = _PAGE.format(title="Log in", style=_STYLE, contents=contents)
    return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)


def question() -> web.Response:
    """Return the page that asks whether to log out, for who has typed the address: a link must not do it."""
    text = _PAGE.format(title="Log out", style=_STYLE, contents=_QUESTION)
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)


def fields_of(body: bytes) -> dict[str, str]:
    """Return the fields of a form that was sent. Raises ValueError for too many.

    It is UTF-8, as our form is: a request could name an encoding that Python decodes slowly, or does not have.
    """
    return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=_MOST_FIELDS))


def own_address(address: str) -> str:
    """Return an address of this server; "/" in place of one that may lead elsewhere."""
    leads_elsewhere = not address.startswith("/") or address[1:2] in ("/", "\\")
    is_text = address.isascii() and address.isprintable() and len(address) <= _LONGEST_ADDRESS
    return "/" if leads_elsewhere or not is_text or address.startswith((LOGIN, LOGOUT)) else address


def is_own_form(request: web.Request) -> bool:
    """Return True if our own page has sent the form, as far as the browser tells.

    What the browser says of the site counts first: a page that sends no referrer has the origin `null`.
    """
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return (
        origin is None or origin == f"{'https' if is_secure(request) else 'http'}://{request.headers.get('Host', '')}"
    )


def is_secure(request: web.Request) -> bool:
    """Return True if the request came over TLS."""
    return request.transport is not None and request.transport.get_extra_info("ssl_object") is not None


def has_cookie(request: web.Request) -> bool:
    """Return True if the request has a cookie of this server, whether its session is still one or not."""
    return _cookie(request) in request.cookies


def is_logged_in(request: web.Request, sessions: Sessions, token: str) -> bool:
    """Return True if the cookie of the request is that of a session."""
    name = request.cookies.get(_cookie(request))
    return name is not None and sessions.is_valid(name, token, time.monotonic())


def logged_in(request: web.Request, sessions: Sessions, token: str, address: str) -> web.Response:
    """Begin a session, always a new one, and go on to `address`."""
    answer = web.Response(status=303, headers={"Location": own_address(address)})
    answer.set_cookie(
        _cookie(request),
        sessions.begin(token, time.monotonic()),
        max_age=int(SESSION_SECONDS),
        path="/",
        httponly=True,
        secure=is_secure(request),
        samesite="Strict",
    )
    return answer


def logged_out(request: web.Request, sessions: Sessions) -> web.Response:
    """End the session, if the request has one, and show the form."""
    answer = web.Response(status=303, headers={"Location": LOGIN})
    if (name := request.cookies.get(_cookie(request))) is not None:
        sessions.end(name)
        answer.del_cookie(_cookie(request), path="/", httponly=True, secure=is_secure(request), samesite="Strict")
    return answer


def _cookie(request: web.Request) -> str:
    """The name of the cookie: browsers send a cookie to every port of a host, so each server has a name of its own.

    It is made of the address that the browser asks, since a published port of a container, or a proxy, stands before
    the port that the daemon has, which may be the same for several; and of this port, since a proxy may leave out its
    own.
    """
    sockname = request.transport.get_extra_info("sockname") if request.transport is not None else None
    prefix = "__Host-" if is_secure(request) else ""
    host = hashlib.sha256(request.headers.get("Host", "").lower().encode(errors="surrogateescape")).hexdigest()
    return f"{prefix}discovery-{sockname[1] if sockname else 0}-{host[:_HOST_DIGITS]}"
