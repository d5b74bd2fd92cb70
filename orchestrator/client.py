"""`sweep submit`: hands a budget to a service and follows it there."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from orchestrator.errors import (
    BadInput,
    EnvironmentUnusable,
    Fault,
    StateRefused,
    SweepError,
)

DEFAULT_SERVER = "http://127.0.0.1:8765"
TOKEN_VARIABLE = "SWEEP_TOKEN"
AWAY_S = 300.0
"""How long a service may be away before a reader gives up, seconds."""
_SILENCE_S = 60.0
"""A stream that says nothing for so long has lost its other end; it says something every 15 s."""
_API = "/api/v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service and the token that it wants."""

    url: str
    """Its address, without a slash at the end."""
    token: str
    """The token."""

    @property
    def is_local(self) -> bool:
        """Whether it is asked on this machine."""
        return is_loopback(self.url)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask it for a document.

        Raises:
            SweepError: what it answers when something is wrong.
            EnvironmentUnusable: when it does not answer.
        """
        with self._open(method, path, body) as answer:
            document: dict[str, Any] = json.load(answer)
            return document

    def events(self, name: str, *, after: int) -> Iterator[dict[str, Any]]:
        """The events of a sweep behind a number, as they come."""
        path = f"{_API}/sweeps/{quote(name)}/events?after={after}"
        with self._open("GET", path, None) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def _open(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                **({} if body is None else {"Content-Type": "application/json"}),
            },
        )
        try:
            return _OPENER.open(request, timeout=_SILENCE_S)
        except urllib.error.HTTPError as error:
            raise _refusal(error, self.url) from None
        except (OSError, ValueError) as error:
            raise _away(self.url, error) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is never carried to another address."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    return (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")


def service_at(url: str, *, token_file: Path | None, outputs: Path) -> Service:
    """The service at an address, with the token from a file, the environment or its own folder.

    Args:
        url: its address.
        token_file: where the token stands; None: `SWEEP_TOKEN`, or for a service of this machine
            the file that it keeps in its outputs folder.
        outputs: the outputs folder.

    Raises:
        BadInput: for an address that is none, or without a token.
        EnvironmentUnusable: when the file is not private.
    """
    from orchestrator.server.access import TOKEN_FILE, read_token

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(
            Fault(
                code="SWP-6010",
                rule="a service is named by its address",
                place=f"--server {url}",
                remedy=f"for example --server {DEFAULT_SERVER}",
            )
        )
    own = outputs / TOKEN_FILE
    if token_file is None and TOKEN_VARIABLE in os.environ:
        return Service(url=url.rstrip("/"), token=os.environ[TOKEN_VARIABLE].strip())
    # The token of this folder is for the service of this folder, and is sent nowhere else.
    if token_file is None and is_loopback(url) and own.is_file():
        token_file = own
    if token_file is None:
        raise BadInput(
            Fault(
                code="SWP-6011",
                rule=f"a service wants its token, from --token-file, from {TOKEN_VARIABLE}, or, on "
                "this machine, from its own outputs folder",
                place=str(own),
                remedy="start `sweep serve` here, or copy its token into a private file",
            )
        )
    return Service(url=url.rstrip("/"), token=read_token(token_file))


def submit(service: Service, budget_file: Path, text: str) -> dict[str, Any]:
    """Hand a budget in; what the service answers, schema `sweep.submit/1`.

    A service of this machine takes relative paths from the budget's folder. Another machine cannot
    see them, and says so.
    """
    body: dict[str, Any] = {"budget": text}
    if service.is_local:
        body["base"] = str(budget_file.resolve().parent)
    document = service.ask("POST", f"{_API}/sweeps", body)
    return {
        **document,
        "server": service.url,
        "page": service.url + document["page"],
    }


def follow(
    service: Service,
    name: str,
    *,
    show: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Follow a sweep until its driver ends, across the service's restarts.

    Args:
        service: where it runs.
        name: the sweep.
        show: called with each event in words.
        pause: waits before the next try.

    Returns:
        How it ended, schema `sweep.end/1`.

    Raises:
        EnvironmentUnusable: when the service stays away.
    """
    known, away_since = -1, None
    while True:
        try:
            for event in service.events(name, after=known):
                away_since = None
                if event.get("schema") == "sweep.end/1":
                    return event
                if event.get("schema") == "sweep.error/1":
                    raise _error(event)
                known = event["seq"]
                show(event["words"])
            error: Exception = ConnectionError("the stream ended")
        except EnvironmentUnusable as refused:
            error = refused
        except (OSError, ValueError) as broken:
            error = broken
        now = time.monotonic()
        if away_since is None:
            away_since = now
            show("the service is away; its sweep goes on without it; trying again ...")
        elif now - away_since > AWAY_S:
            raise _away(service.url, error)
        pause(1.0)


def exit_code_of(end: dict[str, Any]) -> int:
    """The exit code of a sweep that ended elsewhere.

    Raises:
        SweepError: what ended its driver before it could say more.
        EnvironmentUnusable: when the driver died without a word.
    """
    if end["faults"]:
        raise _error(end)
    if end["exit_code"] is None:
        raise EnvironmentUnusable(
            Fault(
                code="SWP-6013",
                rule="the driver of a sweep must live until its end; this one died without a word",
                place=end["name"],
                remedy="submit the same budget again: it does what is left; `driver.log` may say "
                "why",
            )
        )
    return int(end["exit_code"])


def _refusal(error: urllib.error.HTTPError, url: str) -> SweepError:
    with error:
        try:
            record = json.loads(error.read())
        except ValueError:
            record = {}
    if record.get("schema") == "sweep.error/1":
        return _error(record)
    return _away(url, ConnectionError(f"HTTP {error.code}"))


def _error(record: dict[str, Any]) -> SweepError:
    faults = [Fault(**fault) for fault in record["faults"]]
    for kind in (BadInput, StateRefused, EnvironmentUnusable):
        if int(kind.exit_code) == record["exit_code"]:
            return kind(faults)
    return SweepError(faults)


def _away(url: str, error: Exception) -> EnvironmentUnusable:
    reason = getattr(error, "reason", None) or error
    return EnvironmentUnusable(
        Fault(
            code="SWP-6010",
            rule=f"a service must answer at its address: {reason}",
            place=url,
            remedy="start `sweep serve` there, or name another --server",
        )
    )
