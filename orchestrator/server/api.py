"""The HTTP interface, version 1: the verbs of the command on the sweeps of one outputs folder."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, FastAPI, Header, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from orchestrator import documents
from orchestrator.budget import NAME_PATTERN, Budget, parse_budget
from orchestrator.documents import (
    LogsDocument,
    MetricsDocument,
    Standing,
    StatusDocument,
    SweepsDocument,
    TrialDocument,
    TrialsDocument,
)
from orchestrator.errors import BadInput, Fault, StateRefused, SweepError, nearest
from orchestrator.journal import JOURNAL
from orchestrator.operations import frozen_budget, list_sweeps, standing
from orchestrator.operations import present_state as state_of
from orchestrator.operations import retry as set_back
from orchestrator.server import drivers, events, files, heavy
from orchestrator.server.local_paths import base_of
from orchestrator.server.problems import ErrorDocument, defect, error_document, status_of
from orchestrator.submission import Submission, is_submitted

PREFIX = "/api/v1"
MAX_POINTS = 10_000
"""Most points of a trial in one answer."""
FILE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Files of a sweep are shown as documents of a stranger: no script, no origin, no network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """What the service works with: a folder, and how work and drivers are started."""

    outputs: Path
    """Folder of all sweeps, absolute."""
    work: Any = heavy.do
    """Does a piece of heavy work: `do(name, **arguments)`."""
    start: drivers.Launch = drivers.launch
    """Starts a driver."""

    def sweep(self, name: str) -> Path:
        """The folder of a sweep.

        Raises:
            BadInput: when there is none of this name.
        """
        folder = self.outputs / name
        named = re.fullmatch(NAME_PATTERN, name) is not None
        if named and ((folder / JOURNAL).is_file() or is_submitted(folder)):
            return folder
        known = [item["name"] for item in list_sweeps(self.outputs)]
        raise BadInput(
            Fault(
                code="SWP-1305",
                rule="no sweep of this name in the service's outputs folder",
                place=name[:100],
                remedy=nearest(name, known) if known else "submit one",
            )
        )

    def begun(self, name: str) -> Path:
        """The folder of a sweep whose journal is open.

        Raises:
            BadInput: when there is none of this name.
            StateRefused: when its driver has not come so far.
        """
        folder = self.sweep(name)
        if (folder / JOURNAL).is_file():
            return folder
        raise StateRefused(
            Fault(
                code="SWP-5006",
                rule="what is asked for needs a sweep that has begun; its driver is still "
                "preparing it, or failed to",
                place=name,
                remedy="ask for its events: they say how it began, or why it did not",
            )
        )


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Handed(_Body):
    """A budget that is handed in."""

    budget: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    """The text of a budget file."""
    base: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Folder on the service's machine that relative paths in it are taken from, absolute."""


class Extending(_Body):
    """More money for a sweep."""

    budget: Annotated[str, Field(min_length=1, max_length=100)]
    """What to add, in the unit of the budget: `+1e13`, `+2`, `+2h`."""
    later: bool = False
    """Only record it; `resume` trains."""


class Retrying(_Body):
    """Trials to be trained anew."""

    trial: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """One trial; absent: all that ended badly."""


class ServerDocument(TypedDict):
    """What answers."""

    schema: Literal["sweep.server/1"]
    version: str
    sweeps: int


class DriverDocument(TypedDict):
    """Whether a driver was started, and where to follow it."""

    schema: Literal["sweep.submit/1"]
    name: str
    started: bool
    standing: Standing
    status: str
    events: str
    page: str


class StopDocument(TypedDict):
    """Whether there was somebody to ask."""

    schema: Literal["sweep.stop/1"]
    asked: bool


class RetryDocument(TypedDict):
    """Labels of the trials that were set back."""

    schema: Literal["sweep.retry/1"]
    trials: list[str]


class ExtendDocument(TypedDict):
    """The new ceiling."""

    schema: Literal["sweep.extend/1"]
    name: str
    added_flops: float
    budget_flops: float
    run: NotRequired[DriverDocument | None]


class ReportDocument(TypedDict):
    """Where the report stands on the service's machine."""

    schema: Literal["sweep.report/1"]
    report: str


class FilesDocument(TypedDict):
    """The files of a sweep that are given out."""

    schema: Literal["sweep.files/1"]
    files: list[str]


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorDocument, "description": words}
    for status, words in (
        (401, "the token is missing or wrong"),
        (403, "asked under a name or from a page that is not this service's"),
        (404, "there is no such thing"),
        (409, "the state of the sweep does not allow it"),
        (413, "the body is too large"),
        (422, "the budget, the body or a parameter is wrong"),
        (503, "a library, a device or the disk cannot be used, or the service is busy"),
    )
}
Name = Annotated[str, Field(description="Name of the sweep.")]


def router(shop: Shop) -> APIRouter:
    """The routes on the sweeps of one folder."""
    routes = APIRouter(
        prefix=PREFIX,
        responses=_REFUSALS,
        dependencies=[Security(HTTPBearer(auto_error=False, description="The service's token."))],
    )

    @routes.get("", summary="What answers")
    def server() -> ServerDocument:
        from importlib.metadata import version

        return {
            "schema": "sweep.server/1",
            "version": version("isosweep"),
            "sweeps": len(list_sweeps(shop.outputs)),
        }

    @routes.get("/sweeps", summary="List the sweeps")
    def sweeps() -> SweepsDocument:
        return documents.sweeps_document(shop.outputs)

    @routes.post("/plan", summary="Quote a budget; nothing is trained")
    def plan(handed: Handed) -> dict[str, Any]:
        _, base = _parsed(handed)
        quotation: dict[str, Any] = shop.work(
            "plan", text=handed.budget, base=str(base), outputs=str(shop.outputs)
        )
        return quotation

    @routes.post("/sweeps", status_code=202, summary="Submit a budget; its driver starts")
    def submit(handed: Handed) -> DriverDocument:
        budget, base = _parsed(handed)
        submission = Submission(text=handed.budget, base=str(base))
        started = drivers.submit(shop.outputs, budget, submission, start=shop.start)
        return _driver(shop, budget.name, started=started)

    @routes.get("/sweeps/{name}", summary="Where a sweep stands")
    def status(name: Name) -> StatusDocument:
        return documents.status_document(shop.sweep(name))

    @routes.get("/sweeps/{name}/trials", summary="Every trial with its size, cost and progress")
    def trials(name: Name) -> TrialsDocument:
        return documents.trials_document(shop.sweep(name))

    @routes.get("/sweeps/{name}/trials/{trial}", summary="Everything about one trial")
    def trial(name: Name, trial: str) -> TrialDocument:
        return documents.trial_document(shop.begun(name), trial)

    @routes.get("/sweeps/{name}/trials/{trial}/metrics", summary="Points of a trial's training")
    def metrics(
        name: Name,
        trial: str,
        skip: Annotated[int, Query(ge=0, le=10**9, description="Points to leave out.")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_POINTS, description="Most points.")] = 1000,
    ) -> MetricsDocument:
        return documents.metrics_document(shop.begun(name), trial, skip=skip, limit=limit)

    @routes.post("/sweeps/{name}/stop", summary="Ask a sweep to checkpoint and end")
    def stop(name: Name) -> StopDocument:
        return {"schema": "sweep.stop/1", "asked": drivers.stop(shop.sweep(name))}

    @routes.post("/sweeps/{name}/resume", status_code=202, summary="Do what is left of a sweep")
    def resume(name: Name) -> DriverDocument:
        started = drivers.go_on(shop.sweep(name), start=shop.start)
        return _driver(shop, name, started=started)

    @routes.post("/sweeps/{name}/retry", summary="Set trials that ended badly back")
    def retry(name: Name, retrying: Retrying | None = None) -> RetryDocument:
        wanted = retrying.trial if retrying else None
        return {"schema": "sweep.retry/1", "trials": set_back(shop.begun(name), wanted)}

    @routes.post("/sweeps/{name}/extend", status_code=202, summary="Give a sweep more money")
    def extend(name: Name, extending: Extending) -> ExtendDocument:
        from orchestrator.extending import extend as raise_ceiling

        folder = shop.begun(name)
        added = raise_ceiling(folder, frozen_budget(folder)[0], extending.budget)
        run = None
        if not extending.later:
            run = _driver(shop, name, started=drivers.go_on(folder, start=shop.start))
        return {
            "schema": "sweep.extend/1",
            "name": name,
            "added_flops": added.added_flops,
            "budget_flops": added.budget_flops,
            "run": run,
        }

    @routes.get("/sweeps/{name}/fit", summary="Fit what a sweep has finished so far")
    def fit(
        name: Name,
        target_flops: Annotated[float | None, Query(gt=0, le=1e40)] = None,
        law: Literal["chinchilla", "skaling", "tied", "pinned", "isoflop"] | None = None,
        holdout: Literal["top"] | None = None,
    ) -> dict[str, Any]:
        found: dict[str, Any] = shop.work(
            "fit",
            sweep_dir=str(shop.begun(name)),
            target_flops=target_flops,
            law=law,
            holdout=holdout is not None,
        )
        return found

    @routes.get("/sweeps/{name}/report", response_class=FileResponse, summary="The report")
    def report(name: Name) -> FileResponse:
        return _file(shop.sweep(name), "report/report.html")

    @routes.post("/sweeps/{name}/report", summary="Write the report again from the journal")
    def write_report(name: Name) -> ReportDocument:
        written: ReportDocument = shop.work("report", sweep_dir=str(shop.begun(name)))
        return written

    @routes.get("/sweeps/{name}/files", summary="The files that are given out")
    def list_files(name: Name) -> FilesDocument:
        return {"schema": "sweep.files/1", "files": files.listed(shop.sweep(name))}

    @routes.get(
        "/sweeps/{name}/files/{path:path}", response_class=FileResponse, summary="One of them"
    )
    def one_file(name: Name, path: str) -> FileResponse:
        return _file(shop.sweep(name), path)

    @routes.get("/sweeps/{name}/logs", summary="What happened, in words")
    def logs(name: Name) -> LogsDocument:
        return documents.logs_document(shop.begun(name))

    @routes.get(
        "/sweeps/{name}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
        summary="The journal as server-sent events, until nobody drives the sweep",
    )
    async def follow(
        name: Name,
        after: Annotated[int, Query(ge=-1, le=10**9, description="Last number known.")] = -1,
        last_event_id: Annotated[
            str | None, Header(description="The same, as browsers send it.")
        ] = None,
    ) -> StreamingResponse:
        known = after
        if last_event_id is not None and last_event_id.isdecimal() and len(last_event_id) < 10:
            known = int(last_event_id)
        found: AsyncIterator[str] = events.stream(shop.sweep(name), after=known)
        return StreamingResponse(found, media_type="text/event-stream")

    return routes


def handle_errors(app: FastAPI) -> None:
    """Answer every error as one document."""

    @app.exception_handler(SweepError)
    def ours(_: Request, error: SweepError) -> JSONResponse:
        return JSONResponse(error_document(error), status_code=status_of(error))

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [
            Fault(
                code="SWP-6006",
                rule=f"a request has the form of the interface: {item['msg']}",
                place=".".join(map(str, item["loc"])),
                remedy=f"see {PREFIX}/openapi.json",
            )
            for item in error.errors()
        ]
        return JSONResponse(error_document(BadInput(faults)), status_code=422)

    @app.exception_handler(HTTPException)
    def unknown(request: Request, error: HTTPException) -> JSONResponse:
        fault = Fault(
            code="SWP-6005",
            rule=f"the interface has this path with this method: {error.detail}",
            place=f"{request.method} {request.url.path}"[:200],
            remedy=f"see {PREFIX}/openapi.json",
        )
        return JSONResponse(
            error_document(BadInput(fault)), status_code=error.status_code, headers=error.headers
        )

    @app.exception_handler(Exception)
    def ours_alone(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_document(defect(error)), status_code=500)


def _parsed(handed: Handed) -> tuple[Budget, Path]:
    budget = parse_budget(handed.budget)
    return budget, base_of(budget, handed.base)


def _driver(shop: Shop, name: str, *, started: bool) -> DriverDocument:
    folder = shop.outputs / name
    stands: Any = "starting" if started else standing(folder, state_of(folder))
    return {
        "schema": "sweep.submit/1",
        "name": name,
        "started": started,
        "standing": stands,
        "status": f"{PREFIX}/sweeps/{name}",
        "events": f"{PREFIX}/sweeps/{name}/events",
        "page": f"/sweeps/{name}",
    }


def _file(sweep_dir: Path, name: str) -> FileResponse:
    path = files.given(sweep_dir, name)
    return FileResponse(
        path,
        media_type=files.media_type(path),
        headers={"content-security-policy": FILE_POLICY},
    )
