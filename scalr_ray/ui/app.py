"""Which page answers which path, and how errors are told.

What the ledger does not know is a 404 with one line; a ledger that does not answer is a 503 that
says what to do, and why on standard error: the reason names hosts and users.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TypeVar

from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from scalr_ray import __version__
from scalr_ray.core.config import ScalrConfig, load_config
from scalr_ray.core.errors import ScalrError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.jobs.reports import evaluations_of, has_report, read_report
from scalr_ray.jobs.status import look
from scalr_ray.ledger import Ledger
from scalr_ray.ui.guard import POLICY, REPORT_POLICY, Guard, Names, page_policy
from scalr_ray.ui.lists import PER_PAGE, Part
from scalr_ray.ui.rendering import render, style_hash

_RECENT = 10
_LONGEST_ID = 200
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<rect width="16" height="16" rx="3" fill="#0b5cad"/>'
    '<path d="M4 11V8M8 11V4M12 11V6" stroke="#fff" stroke-width="2"/></svg>'
)

Record = TypeVar("Record")


def make_app(repo: Path, overrides: Sequence[str], host: str) -> ASGIApp:
    """The pages over one feature repository.

    Args:
        repo: the folder with `scalr.yaml`.
        overrides: `a.b=c` texts over `scalr.yaml`.
        host: that the server listens on.

    Raises:
        ConfigError: `scalr.yaml` or an override is wrong.
    """
    pages = _Pages(repo, overrides)
    routes = {
        "/": pages.overview,
        "/runs": pages.runs,
        "/runs/{name:path}": pages.run,
        "/batches": pages.batches,
        "/batches/{name:path}": pages.batch,
        "/translators": pages.translators,
        "/translators/{name:path}": pages.translator,
        "/lineage": pages.lineage,
        "/reports/{name:path}": pages.report,
        "/healthz": pages.health,
        "/favicon.ico": _icon,
    }
    app = Starlette(
        routes=[Route(path, page) for path, page in routes.items()],
        exception_handlers={
            HTTPException: pages.refused,
            ScalrError: pages.without_ledger,
            DBAPIError: pages.without_ledger,
            Exception: pages.failed,
        },
    )
    return Guard(app, names=Names.of(host), policy=page_policy(style_hash()))


class _Pages:
    """One method per page; each opens what it shows and closes it."""

    def __init__(self, repo: Path, overrides: Sequence[str]) -> None:
        self._repo = repo
        self._overrides = overrides
        self._project = self._config().project
        self._tracing = Lock()

    def overview(self, request: Request) -> Response:
        """How the repository stands, what to do next, and the last runs."""
        looked = look(self._repo, self._config())
        with self._ledger() as ledger:
            runs = [] if ledger is None else ledger.runs(_RECENT)
        return self._page(request, "overview", looked=looked, runs=runs)

    def runs(self, request: Request) -> Response:
        """The runs."""
        return self._list(request, "runs", lambda ledger: lambda n, s: ledger.runs(n, skip=s))

    def run(self, request: Request) -> Response:
        """A run, and what came of it."""
        name = _name_in(request)
        with self._known(f"run {name}", "runs") as ledger:
            run = ledger.run(name)
            return self._page(
                request,
                "run",
                run=run,
                batches=ledger.batches(run_id=name),
                translators=ledger.translators(run_id=name),
                reported=has_report(run),
            )

    def batches(self, request: Request) -> Response:
        """The batches."""
        return self._list(
            request, "batches", lambda ledger: lambda n, s: ledger.batches(limit=n, skip=s)
        )

    def batch(self, request: Request) -> Response:
        """A batch, and what the gate and evaluations found."""
        name = _name_in(request)
        with self._known(f"batch {name}", "batches") as ledger:
            batch = ledger.batch(name)
            return self._page(
                request,
                "batch",
                batch=batch,
                run=ledger.run(batch.run_id),
                verdicts=ledger.verdicts(name),
                watermarks=ledger.batch_watermarks(name),
                replaced=ledger.replaced_by(name),
                evaluations=evaluations_of(ledger, batch),
            )

    def translators(self, request: Request) -> Response:
        """The translators."""
        return self._list(
            request, "translators", lambda ledger: lambda n, s: ledger.translators(limit=n, skip=s)
        )

    def translator(self, request: Request) -> Response:
        """A translator, and the batches that it drew."""
        name = _name_in(request)
        with self._known(f"translator {name}", "translators") as ledger:
            translator = ledger.translator(name)
            batches = ledger.batches(translator=name, limit=PER_PAGE)
        return self._page(request, "translator", translator=translator, batches=batches)

    def lineage(self, request: Request) -> Response:
        """Where a synthetic event comes from; a form, as long as none is named."""
        event = request.query_params.get("event", "").strip()
        found, missing = None, ""
        if event:
            with self._ledger() as ledger:
                # Whoever has drawn a batch has made the table; looking at one makes it too.
                there = ledger is not None and bool(ledger.batches(limit=1))
            if there and _is_name(event):
                # Feast and the table are loaded once, and tell of one event at a time.
                with self._tracing:
                    found, missing = self._trace(event)
            else:
                missing = "There is no such synthetic event."
        status = 404 if missing else 200
        values = {"event": event[:_LONGEST_ID], "found": found, "missing": missing}
        return self._page(request, "lineage", status, **values)

    def report(self, request: Request) -> Response:
        """The report that an evaluation wrote, as it lies there."""
        name = _name_in(request)
        with self._known(f"run {name}", "runs") as ledger:
            run = ledger.run(name)
        content = read_report(run)
        if content is None:
            raise HTTPException(
                404, f"There is no report of run {name} where it was written; evaluate again."
            )
        return HTMLResponse(content, headers={POLICY: REPORT_POLICY})

    def health(self, _request: Request) -> Response:
        """Whether the ledger answers, in one word."""
        with self._ledger() as ledger:
            return PlainTextResponse("ok\n" if ledger is not None else "ok, no ledger yet\n")

    def refused(self, request: Request, error: Exception) -> Response:
        """What is not there."""
        assert isinstance(error, HTTPException)
        told = error.detail if error.status_code == 404 else "That cannot be answered."
        if told == "Not Found":
            told = "There is no such page."
        return self._error(request, error.status_code, "Not found", told)

    def without_ledger(self, request: Request, error: Exception) -> Response:
        """A ledger, a table or a setting that cannot be read."""
        reason = error.message if isinstance(error, ScalrError) else type(error).__name__
        print(f"scalr: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - to whom serves
        told = (
            "The ledger, or the table of synthetic events, cannot be read now. The line that "
            "`scalr ui` wrote where it runs says why; `scalr doctor` says what to do."
        )
        return self._error(request, 503, "No answer from the ledger", told)

    def failed(self, request: Request, _error: Exception) -> Response:
        """A bug of ours; the server tells it where it runs."""
        told = "This page ended with an error. `scalr ui` tells it where it runs."
        return self._error(request, 500, "Something went wrong", told)

    def _trace(self, event: str) -> tuple[object, str]:
        from scalr_ray.jobs.lineage import UnknownEvent, trace  # Feast takes seconds to import
        from scalr_ray.jobs.progress import Progress
        from scalr_ray.jobs.workspace import Workspace

        workspace = Workspace(self._repo, self._overrides, Progress())
        try:
            return trace(workspace, event), ""
        except UnknownEvent as error:
            return None, f"{error.message[:1].upper()}{error.message[1:]}."
        finally:
            workspace.close()

    def _list(
        self,
        request: Request,
        page: str,
        asking: Callable[[Ledger], Callable[[int, int], Sequence[Record]]],
    ) -> Response:
        with self._ledger() as ledger:
            ask = (lambda _count, _skip: []) if ledger is None else asking(ledger)
            part = Part.of(request.query_params.get("page", "1"), ask)
        if part is None:
            raise HTTPException(404, f"There are not so many {page}.")
        return self._page(request, page, part=part)

    @contextmanager
    def _ledger(self) -> Iterator[Ledger | None]:
        ledger = Ledger.existing(Layout.of(self._repo, self._config()).database_url)
        if ledger is None:
            yield None
            return
        with ledger:
            yield ledger

    @contextmanager
    def _known(self, what: str, place: str) -> Iterator[Ledger]:
        """The ledger, in a block that asks it for something by its id."""
        unknown = HTTPException(404, f"There is no {what}; /{place} lists those that there are.")
        with self._ledger() as ledger:
            if ledger is None:
                raise unknown
            try:
                yield ledger
            except UsageError as error:
                if type(error) is not UsageError:
                    raise
                raise unknown from error

    def _config(self) -> ScalrConfig:
        return load_config(self._repo, self._overrides)

    def _page(self, request: Request, page: str, status: int = 200, **values: object) -> Response:
        shared = {
            "at": request.url.path,
            "project": self._project,
            "version": __version__,
            "now": datetime.now(UTC),
        }
        return HTMLResponse(render(page, **shared, **values), status_code=status)

    def _error(self, request: Request, status: int, title: str, told: str) -> Response:
        return self._page(request, "error", status, title=title, told=told)


def _name_in(request: Request) -> str:
    """The id in the path, which no database need be asked for where it cannot be one."""
    name: str = request.path_params["name"]
    if not _is_name(name):
        raise HTTPException(404, "There is nothing of that name.")
    return name


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_ID and text.isprintable()


def _icon(_request: Request) -> Response:
    return Response(_ICON, media_type="image/svg+xml")
