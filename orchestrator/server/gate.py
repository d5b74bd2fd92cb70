"""What every request passes before anything reads it: names, origin, token, size, headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import BadInput, Fault
from orchestrator.server.access import SAFE_METHODS, Access, is_same_origin
from orchestrator.server.problems import error_document

MAX_BODY = 2_000_000
"""Largest body of a request, bytes; a budget file may have 1,000,000."""
BODY_S = 30.0
"""Longest time that a body may take to come, seconds."""
OPEN_PATHS = frozenset({"/login", "/style.css"})
"""Pages that need no token: they say nothing of any sweep."""
API = "/api/"

_HEADERS = {
    b"content-security-policy": b"default-src 'none'; style-src 'self'; script-src 'self'; "
    b"connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    # `no-referrer` would make browsers send `Origin: null` with our own forms.
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Gate:
    """ASGI middleware around the whole service."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = _headers(scope)

        async def send_whole(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(message)
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is None and {"content-length", "transfer-encoding"} & set(headers):
            body = await _read(receive)
            if body is None:
                refusal = _too_large()
            else:
                receive = _replayed(body, receive)
        if refusal is None:
            await self._app(scope, receive, send_whole)
        else:
            await _answer(send_whole, *refusal)

    def _refusal(
        self, scope: Scope, headers: dict[str, list[str]]
    ) -> tuple[int, dict[str, str], bytes] | None:
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._access.may_be_called(hosts[0]):
            asked = ", ".join(hosts)[:100] or "none"
            return _problem(
                403,
                Fault(
                    code="SWP-6002",
                    rule="a request must name this machine by address or as localhost, got "
                    + asked,
                    remedy="use the address that `sweep serve` printed",
                ),
            )
        origins = headers.get("origin", [])
        if any(not is_same_origin(origin, hosts[0]) for origin in origins):
            return _problem(
                403,
                Fault(
                    code="SWP-6003",
                    rule="requests of other sites' pages are refused",
                    remedy="open the service's own pages, or ask without an `Origin`",
                ),
            )
        lengths = headers.get("content-length", [])
        if any(not length.isdigit() or int(length) > MAX_BODY for length in lengths):
            return _too_large()
        if scope["path"] in OPEN_PATHS:
            return None
        if any(self._access.has_bearer(value) for value in headers.get("authorization", [])):
            return None
        logged_in = self._access.is_logged_in("; ".join(headers.get("cookie", [])))
        if logged_in and (scope["method"] in SAFE_METHODS or origins):
            return None
        if not scope["path"].startswith(API) and scope["method"] in SAFE_METHODS and not logged_in:
            return 303, {"location": "/login"}, b""
        return _problem(
            401,
            Fault(
                code="SWP-6001",
                rule="every request carries the service's token",
                remedy="send `Authorization: Bearer TOKEN`; `sweep serve` says where it stands",
            ),
        )


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large or does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    return None
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read again; what follows it comes from the connection."""
    left = [body]

    async def replayed() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replayed


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _complete(message: MutableMapping[str, Any]) -> None:
    """Add the headers that every answer has, unless the page has its own."""
    headers = list(message.get("headers", []))
    there = {name.lower() for name, _ in headers}
    message["headers"] = headers + [item for item in _HEADERS.items() if item[0] not in there]


def _too_large() -> tuple[int, dict[str, str], bytes]:
    return _problem(
        413,
        Fault(
            code="SWP-6004",
            rule=f"the body of a request has at most {MAX_BODY:,} bytes, and comes within "
            f"{BODY_S:.0f} s",
            remedy="name data by path instead of writing it into the budget",
        ),
    )


def _problem(status: int, fault: Fault) -> tuple[int, dict[str, str], bytes]:
    headers = {"content-type": "application/json"}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return status, headers, json.dumps(error_document(BadInput(fault))).encode()


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
