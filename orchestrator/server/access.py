"""Who may ask: one token, one machine's own names, one origin.

A page of a stranger's site can make a browser send requests to 127.0.0.1, and a name that a
stranger owns can be pointed there (DNS rebinding). So a request must name this machine by an
address, by `localhost`, or, when it listens beyond loopback, by its host name; an `Origin` must be
the address that was asked; and every request but the log-in carries the token, in a header or as a
cookie that other sites' requests never carry.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import EnvironmentUnusable, Fault

TOKEN_FILE = ".server-token"
"""File of the outputs folder: the token, for its owner's eyes."""
SAFE_METHODS = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""
_COOKIE_PURPOSE = b"isosweep page session"


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What lets a request in."""

    token: str
    """The secret."""
    names: frozenset[str] = frozenset()
    """Host names of this machine that may be asked for, beside `localhost`."""
    loopback_only: bool = True
    """Whether only loopback addresses may be asked for."""

    @property
    def cookie_name(self) -> str:
        """Name of the log-in's cookie: cookies know no ports, so services must not share one."""
        return f"sweep_{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    @property
    def cookie_value(self) -> str:
        """What the cookie holds: not the token, and the same after a restart."""
        return hmac.new(self.token.encode(), _COOKIE_PURPOSE, hashlib.sha256).hexdigest()

    def is_token(self, given: str) -> bool:
        """Whether a text is the token, in constant time."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def may_be_called(self, host: str) -> bool:
        """Whether a `Host` header names this machine in a way that nobody else can point here."""
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback_only

    def is_logged_in(self, cookies: str) -> bool:
        """Whether a `Cookie` header holds the log-in."""
        try:
            found = SimpleCookie(cookies).get(self.cookie_name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(
            found.value.encode(), self.cookie_value.encode()
        )

    def has_bearer(self, authorization: str) -> bool:
        """Whether an `Authorization` header holds the token."""
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given.strip())


def is_same_origin(origin: str, host: str) -> bool:
    """Whether an `Origin` header is the address that was asked."""
    return urlsplit(origin).netloc.lower() == host.lower() != ""


def open_token(path: Path) -> tuple[str, bool]:
    """The token of a file, made where there is none; and whether it is new.

    Raises:
        EnvironmentUnusable: when others can read the file, or it holds no token.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return read_token(path), False
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token, True


def read_token(path: Path) -> str:
    """The token of a file that only its owner can read.

    Raises:
        EnvironmentUnusable: when there is none, others can read it, or it is too short.
    """
    if not path.is_file():
        raise _unusable(path, "there is none", "start `sweep serve`, which makes it, or copy it")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _unusable(
            path, "others than its owner can read it", f"chmod 600 {path}, or remove it"
        )
    token = path.read_text().strip()
    if len(token) < 32:
        raise _unusable(path, "it is shorter than 32 characters", "remove it: a new one is made")
    return token


def _unusable(path: Path, problem: str, remedy: str) -> EnvironmentUnusable:
    return EnvironmentUnusable(
        Fault(
            code="SWP-6009",
            rule=f"the token of a service stands in a private file; {problem}",
            place=str(path),
            remedy=remedy,
        )
    )
