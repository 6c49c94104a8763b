"""Transfers over HTTP: the calls of the DELIV prototype, unchanged, and those of our own grammar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from datahub.errors import DatahubError, InvalidRequest
from datahub.events import Event
from datahub.kit.times import parse_time
from datahub.transfers.model import Filter, Status, Submission, Submitted
from datahub.transfers.reports import Reports, StagingReport
from datahub.transfers.service import Seen, Transfers
from datahub.transfers.view import FileView, View, view, view_file
from datahub.web.app import Answer, App, Call
from datahub.web.lists import (
    LARGEST_PAGE,
    Cursor,
    ListQuery,
    Look,
    page_of,
    parse_wait,
    read_cursor,
    read_filter,
    read_statuses,
)
from datahub.web.live import Live

__all__ = ["TransferRoutes"]


REPORT_TAKEN = "Finished processing staging callback\n"
REPORT_REFUSED = {
    400: "Invalid arguments",
    401: "Unauthorized",
    403: "Unauthorized",
    500: "Exception thrown running finish_staging",
}


class Wanted(Look, frozen=True, kw_only=True):
    """The parameters of ``/transferStatus``."""

    job_id: str = ""


class TransferQuery(ListQuery, frozen=True, kw_only=True):
    """Which transfers: besides what every list has, the exact ``destination``, and ``stuck``: that don't get on."""

    destination: str = ""
    stuck: bool = False


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which transfers to cancel or retry: at least one of status, since, until, destination; ``dry_run`` only tells."""

    status: str = ""
    submitter: str = "me"
    since: str = ""
    until: str = ""
    destination: str = ""
    dry_run: bool = False


class Selected(msgspec.Struct, frozen=True):
    """The ids that were ``done``, those that had changed meanwhile, and with ``dry_run`` those it would do."""

    done: list[str]
    refused: list[str]
    would: list[str]


class Views(msgspec.Struct, frozen=True):
    """A page of transfers, and the cursor of the next."""

    items: list[View]
    next: str | None


class FileQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which files: a page of them."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_PAGE)] = 100
    after: str = ""


class Files(msgspec.Struct, frozen=True):
    """A page of a transfer's files, and the cursor of the next."""

    items: list[FileView]
    next: str | None


class Timeline(msgspec.Struct, frozen=True):
    """All that happened to one transfer, oldest first."""

    items: list[Event]


def submission_refused(_: int, error: DatahubError) -> dict[str, Any]:
    """The prototype's shape of a submission that was not taken."""
    return {"msg": str(error), "job_id": None, "error": True}


def status_refused(status: int, error: DatahubError) -> dict[str, Any]:
    """The prototype's shapes of a status that can't be told."""
    return {"msg": str(error)} if status in (403, 404) else {"msg": str(error), "error": True}


def report_refused(status: int, error: DatahubError) -> str:
    """The prototype's texts to a stager; those of our own for what it never answered."""
    return REPORT_REFUSED.get(status, str(error)) + "\n"


class TransferRoutes:
    """The resource of transfers."""

    app = App()

    def __init__(self, transfers: Transfers, reports: Reports) -> None:
        self._transfers = transfers
        self._reports = reports

    @app.operation(
        "POST",
        "/submitTransfer",
        scope="transfers:write",
        takes=Submission,
        gives={202: Submitted},
        refuses=submission_refused,
    )
    async def submit(self, call: Call, submission: Submission) -> Answer:
        """Submit a product for delivery."""
        number = await self._transfers.submit(call.caller, submission, call.header("Idempotency-Key"))
        location = {"Location": f"/transfers/{number}"}
        return Answer(202, Submitted(number, False, "Job submission processed successfully"), location)

    @app.operation(
        "GET", "/transferStatus", scope="transfers:read", takes=Wanted, gives={200: View}, refuses=status_refused
    )
    async def status(self, call: Call, wanted: Wanted) -> View | Live:
        """Tell how a transfer is doing, as the prototype did."""
        if not wanted.job_id:
            raise InvalidRequest("No job ID specified", field="job_id")
        return await self._show(call, wanted.job_id, wanted)

    @app.operation("GET", "/transfers", scope="transfers:read", takes=TransferQuery, gives={200: Views})
    async def list(self, call: Call, query: TransferQuery) -> Answer:
        """List transfers."""
        submitter = self._transfers.whose(call.caller, query.submitter)
        wanted = replace(
            read_filter(Filter, query, submitter, Status), destination=query.destination or None, stuck=query.stuck
        )
        found = await self._transfers.find_many(call.caller, wanted)
        items = [self._view(each) for each in found[: query.limit]]
        last = found[query.limit - 1].transfer if len(found) > query.limit else None
        return page_of(call, items, None if last is None else Cursor(last.time_submitted, last.id))

    @app.operation("GET", "/transfers/<number>", scope="transfers:read", takes=Look, gives={200: View})
    async def show(self, call: Call, look: Look, number: str) -> View | Live:
        """Tell how a transfer is doing: now, when it is final, or at each change."""
        return await self._show(call, number, look)

    @app.operation("GET", "/transfers/<number>/files", scope="transfers:read", takes=FileQuery, gives={200: Files})
    async def files(self, call: Call, query: FileQuery, number: str) -> Answer:
        """List the files of a transfer: those copied, and one whose copy failed."""
        cursor = read_cursor(query.after)
        first = 0 if cursor is None else cursor.time
        transfer, found = await self._transfers.files(call.caller, number, first, query.limit + 1)
        items = [view_file(each, transfer) for each in found[: query.limit]]
        further = found[query.limit].number if len(found) > query.limit else None
        return page_of(call, items, None if further is None else Cursor(further, number))

    @app.operation("GET", "/transfers/<number>/events", scope="transfers:read", gives={200: Timeline})
    async def timeline(self, call: Call, number: str) -> Timeline:
        """Tell all that happened to a transfer."""
        return Timeline(list(await self._transfers.timeline(call.caller, number)))

    @app.operation("DELETE", "/transfers/<number>", scope="transfers:write", gives={200: View, 202: View})
    async def cancel(self, call: Call, number: str) -> Answer:
        """Cancel a transfer."""
        seen = await self._transfers.cancel(call.caller, number)
        return Answer(200 if seen.transfer.status.final else 202, self._view(seen))

    @app.operation("POST", "/transfers/<number>/retry", scope="transfers:write", gives={202: View})
    async def retry(self, call: Call, number: str) -> Answer:
        """Take up a transfer that ended in ERROR."""
        return Answer(202, self._view(await self._transfers.retry(call.caller, number)))

    @app.operation("POST", "/transfers/retry", scope="transfers:write", takes=Selection, gives={200: Selected})
    async def retry_many(self, call: Call, selection: Selection) -> Selected:
        """Take up all failed transfers that are selected."""
        return await self._for_each(call, selection, "retry")

    @app.operation("POST", "/transfers/cancel", scope="transfers:write", takes=Selection, gives={200: Selected})
    async def cancel_many(self, call: Call, selection: Selection) -> Selected:
        """Cancel all transfers that are selected."""
        return await self._for_each(call, selection, "cancel")

    @app.operation(
        ("GET", "POST"), "/doneStaging", scope="", takes=StagingReport, gives={200: None}, refuses=report_refused
    )
    async def report(self, call: Call, report: StagingReport) -> Answer:
        """Take a stager's report: its authcode, or the scope transfers:stage, is what lets it in."""
        await self._reports.take(call.caller, report)
        return Answer(200, REPORT_TAKEN, content_type="text/plain; charset=utf-8")

    async def _show(self, call: Call, number: str, look: Look) -> View | Live:
        if look.watch:
            await self._transfers.find(call.caller, number)
            return Live(self._views(call, number))
        return self._view(await self._transfers.await_final(call.caller, number, parse_wait(look.wait)))

    async def _views(self, call: Call, number: str) -> AsyncIterator[View | None]:
        async for seen in self._transfers.watch(call.caller, number):
            yield None if seen is None else self._view(seen)

    async def _for_each(self, call: Call, selection: Selection, verb: str) -> Selected:
        if not any((selection.status, selection.since, selection.until, selection.destination)):
            raise InvalidRequest(
                f"say which transfers to {verb}: at least one of status, since, until, destination", field="status"
            )
        submitter = self._transfers.whose(call.caller, selection.submitter, reads=False)
        wanted = Filter(
            limit=LARGEST_PAGE,
            newest_first=False,
            submitter=submitter,
            statuses=read_statuses(selection.status, Status),
            since=parse_time("since", selection.since),
            until=parse_time("until", selection.until),
            destination=selection.destination or None,
        )
        result = await self._transfers.for_each(call.caller, wanted, verb, dry_run=selection.dry_run)
        return Selected(**result)

    def _view(self, seen: Seen) -> View:
        return view(seen, self._transfers.now(), self._transfers.rules.keep)
