"""What stagers report: the first report of an attempt settles it, at whatever hub it comes in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection
from twisted.logger import Logger

from datahub.auth.identity import Caller
from datahub.errors import InvalidRequest, NotPermitted
from datahub.events import Actor
from datahub.transfers import passcode, tables
from datahub.transfers.model import Status, Transfer
from datahub.transfers.pipeline import LANES, STAGE, Limits
from datahub.transfers.service import actor_of
from datahub.work import ledger
from datahub.work.lane import Floor

__all__ = ["SCOPE", "Reports", "StagingReport"]

log = Logger()

SCOPE = "transfers:stage"
"""Who has it needs no passcode."""

YES = ("true", "1", "yes")
NO = ("false", "0", "no", "")
# What a path and a host name can be at most, and more than anybody reads of a message.
LIMITS = {"staged_to": 255, "path": 4096, "authcode": 255}
MESSAGE = 2000


class StagingReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of ``/doneStaging``; ``authcode`` may only be left out by a caller of scope transfers:stage."""

    job_id: str
    product_id: str
    success: str | bool | int
    staged_to: str
    path: str
    msg: str
    authcode: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a report says, apart from its passcode; two that say the same are the same report."""

    success: bool
    host: str
    path: str
    message: str

    @property
    def digest(self) -> str:
        """What is kept of it, to know it again."""
        return hashlib.sha256(msgspec.json.encode([self.success, self.host, self.path, self.message])).hexdigest()


class Reports:
    """Takes reports; nothing that is wrong with one changes anything. ``limits`` say how it goes on."""

    def __init__(self, floor: Floor, limits: Limits) -> None:
        self._store = floor.store
        self._queue = floor.queue
        self._clock = floor.clock
        self._changed = floor.changed
        self._limits = limits

    async def take(self, caller: Caller, report: StagingReport) -> None:
        """Settle the attempt that ``report`` is about; the same report again changes nothing.

        Raises `InvalidRequest` for fields that can't be right, `NotPermitted` for a passcode that is not that of an
        attempt under way, and for a report that contradicts an earlier one.
        """
        outcome = _outcome(report)
        trusted = caller.kind != "anonymous" and caller.may(SCOPE)
        if not report.authcode and not trusted:
            raise InvalidRequest("authcode is missing", field="authcode", code="request.missing")
        try:
            # Most of what is refused is refused without a write.
            if await self._store.read("look at a report", partial(self._is_new, report, outcome)):
                await self._store.run(
                    "settle a staging attempt", partial(self._settle, report, outcome, actor_of(caller))
                )
        except NotPermitted as error:
            log.warn(
                "a report on transfer {id} from {address} is refused: {reason}",
                id=report.job_id[:64],
                address=caller.address,
                reason=str(error),
            )
            raise
        for lane in LANES:
            self._queue.announce(lane)
        self._changed()

    def _is_new(self, report: StagingReport, outcome: Outcome, connection: Connection) -> bool:
        """Whether ``report`` is the first of an attempt under way; False for the same again."""
        return self._awaited(connection, tables.find(connection, report.job_id), report, outcome) is not None

    def _settle(self, report: StagingReport, outcome: Outcome, actor: Actor, connection: Connection) -> None:
        attempt = ledger.lock(connection, STAGE, report.job_id)
        found = tables.find(connection, report.job_id, lock=True)
        transfer = self._awaited(connection, found, report, outcome)
        if transfer is None:
            return
        ledger.take_off(connection, STAGE, transfer.id)
        change = partial(tables.change, connection, transfer, self._clock.wall(), actor=actor)
        if outcome.success:
            change(what="staged", **self._staged(outcome))
            lane, cost = self._limits.lane_of(transfer), self._limits.cost(transfer)
            ledger.enqueue(connection, lane, transfer.id, transfer.submitter, cost=cost)
        else:
            change(**self._failed(outcome), attempts=attempt or 0)

    def _awaited(
        self, connection: Connection, transfer: Transfer | None, report: StagingReport, outcome: Outcome
    ) -> Transfer | None:
        """The transfer, if a report on it is awaited; None if this very one was taken before."""
        if transfer is None or transfer.staging_attempt is None or transfer.product_id != report.product_id:
            raise _refused("no report on such a job and product is awaited")
        known = (transfer.id, transfer.product_id, transfer.staging_attempt)
        if report.authcode and not passcode.fits(connection, report.authcode, *known):
            raise _refused("its authcode is not that of the attempt under way")
        if transfer.staging_report is not None:
            if transfer.staging_report == outcome.digest:
                return None
            raise NotPermitted("another report came first", code="transfer.reported")
        if transfer.status not in (Status.SUBMITTED, Status.STAGING):
            raise _refused(f"the transfer is {transfer.status}")
        return transfer

    def _staged(self, outcome: Outcome) -> dict[str, Any]:
        return {
            # It is SUBMITTED while the hub believes that the stager has not heard it.
            "status": Status.STAGING,
            "staging_report": outcome.digest,
            "stager_hostname": outcome.host,
            "stager_path": outcome.path,
            "stager_status": outcome.message,
            "time_staging_finished": self._clock.wall(),
            "detailed_status": None,
            "failing_since": None,
            "late_since": None,
        }

    def _failed(self, outcome: Outcome) -> dict[str, Any]:
        reason = f"the stager failed: {outcome.message or 'it does not say why'}"
        return {
            "status": Status.ERROR,
            "staging_report": outcome.digest,
            "stager_hostname": outcome.host or None,
            "stager_status": outcome.message,
            "time_error": self._clock.wall(),
            "detailed_status": reason,
        }


def _refused(reason: str) -> NotPermitted:
    return NotPermitted(reason, code="transfer.authcode")


def _outcome(report: StagingReport) -> Outcome:
    for field, limit in LIMITS.items():
        if len(getattr(report, field).encode()) > limit:
            raise InvalidRequest(f"{field} is longer than {limit} bytes", field=field)
    # One line, however long the stager's traceback is.
    message = " ".join(report.msg.split())[:MESSAGE]
    return Outcome(parse_success(report.success), report.staged_to, report.path, message)


def parse_success(value: str | bool | int) -> bool:
    """Whether staging succeeded: text, as forms have it, is not true for being there; raises `InvalidRequest`."""
    text = str(value).strip().lower()
    if text not in YES + NO:
        raise InvalidRequest(f"success is {str(value)[:40]!r}; it must be True or False", field="success")
    return text in YES
