"""The service on a socket: loopback unless asked otherwise, until it is ended."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from orchestrator.errors import BadInput, EnvironmentUnusable, Fault
from orchestrator.server import api, pages
from orchestrator.server.access import TOKEN_FILE, Access, open_token
from orchestrator.server.api import PREFIX, Shop, handle_errors
from orchestrator.server.gate import Gate

MEANING = (
    "anyone who reaches this address and has the token can spend this machine's compute, read text "
    "files that you can read and run model code that lies here; nothing is encrypted, so a network "
    "that others listen on needs a tunnel or a proxy with TLS in front"
)
"""What listening beyond loopback means."""
_CONNECTIONS = 100
"""Most connections at a time; more are told to come again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A service that listens."""

    url: str
    """Its address."""
    token_file: Path
    """Where its token stands."""
    new_token: str | None
    """The token, if it was made just now: the only time that it is shown."""
    beyond_loopback: bool
    """Whether other machines can reach it."""


def make_app(shop: Shop, access: Access) -> ASGIApp:
    """The whole service as an ASGI application."""
    app = FastAPI(
        title="Isosweep",
        version="1",
        summary="Sweeps of one outputs folder: quote, submit, follow, look, fit.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    handle_errors(app)
    app.include_router(api.router(shop))
    app.include_router(pages.router(shop, access))
    return Gate(app, access)


def serve(
    outputs: Path, *, host: str, port: int, expose: bool, announce: Callable[[Opened], None]
) -> None:
    """Serve a folder of sweeps until the process is told to end.

    Args:
        outputs: folder of all sweeps, absolute.
        host: address to listen on.
        port: its port; 0 takes a free one.
        expose: whether an address beyond loopback is meant.
        announce: called once it listens.

    Raises:
        BadInput: for an address beyond loopback that was not asked for twice.
        EnvironmentUnusable: when the address cannot be listened on, or the token is not private.
    """
    beyond = not _is_loopback(host)
    if beyond and not expose:
        raise BadInput(
            Fault(
                code="SWP-6008",
                rule=f"a service listens on loopback unless --expose says otherwise; on {host} "
                + MEANING,
                place=f"--host {host}",
                remedy="reach it through `ssh -L 8765:127.0.0.1:8765 MACHINE`, or add --expose",
            )
        )
    token_file = outputs / TOKEN_FILE
    token, is_new = open_token(token_file)
    names = frozenset({socket.gethostname().lower(), socket.getfqdn().lower()} if beyond else ())
    access = Access(token=token, names=names, loopback_only=not beyond)
    with contextlib.closing(_listen(host, port)) as listener:
        number = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        announce(
            Opened(
                url=f"http://{shown}:{number}",
                token_file=token_file,
                new_token=token if is_new else None,
                beyond_loopback=beyond,
            )
        )
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(Shop(outputs=outputs), access),
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=3,
                lifespan="off",
            )
        )
        server.run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise EnvironmentUnusable(
            Fault(
                code="SWP-6014",
                rule=f"the service must be able to listen on its address: {error.strerror}",
                place=f"{host}:{port}",
                remedy="another --port, or 0 for a free one",
            )
        ) from None
    return listener
