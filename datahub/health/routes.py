"""The hub's own paths: /health, /ready, /version, /whoami."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from datahub import __version__
from datahub.kit.aio import gather, within
from datahub.web.app import Answer, App, Call

__all__ = ["Check", "Health"]

log = Logger()

Check = Callable[[], Awaitable[str | None]]
"""Asks a part how it is: None when it is fine, else the reason why not, in a few words."""

# Seconds: how long a part may take to say how it is, and after which a hub that is not ready is asked again.
PATIENCE = 2.0
AGAIN = 5


class Condition(msgspec.Struct):
    """The hub and its parts; ``uptime`` in seconds, each part "ok" or what is wrong with it."""

    status: str
    node: str
    version: str
    uptime: int
    parts: dict[str, str]


class Readiness(msgspec.Struct):
    """Whether new work is taken, and if not, why: a reason for each part concerned."""

    ready: bool
    reasons: dict[str, str]


class Version(msgspec.Struct):
    """What runs here."""

    node: str
    version: str


class Identity(msgspec.Struct):
    """Whom the hub takes its caller for."""

    name: str
    kind: str
    scopes: list[str]
    address: str


class Health:
    """Answers for the hub, ``started`` by the clock's seconds; without a ``vital`` part it is not ready."""

    app = App()

    def __init__(
        self,
        node: str,
        started: float,
        vital: Mapping[str, Check],
        others: Mapping[str, Check],
        draining: Callable[[], bool],
        clock: IReactorTime,
    ) -> None:
        self._node = node
        self._started = started
        self._vital = vital
        self._others = others
        self._draining = draining
        self._clock = clock

    @app.operation("GET", "/health", scope="", gives={200: Condition})
    async def health(self, call: Call) -> Condition:
        """Tell that the process answers, and how its parts are."""
        parts = await self._ask({**self._vital, **self._others}, call)
        uptime = int(max(0, self._clock.seconds() - self._started))
        told = {name: reason or "ok" for name, reason in parts.items()}
        return Condition("ok", self._node, __version__, uptime, told)

    @app.operation("GET", "/ready", scope="", gives={200: Readiness, 503: Readiness})
    async def ready(self, call: Call) -> Answer:
        """Tell whether new work is taken."""
        parts = await self._ask(self._vital, call)
        reasons = {name: reason for name, reason in parts.items() if reason}
        if self._draining():
            reasons["hub"] = "stopping"
        if not reasons:
            return Answer(200, Readiness(True, {}))
        headers = {"Retry-After": str(AGAIN), "X-Datahub-Error": "hub.unavailable"}
        return Answer(503, Readiness(False, reasons), headers)

    @app.operation("GET", "/version", scope="", gives={200: Version})
    async def version(self, call: Call) -> Version:
        """Tell which version runs on which node."""
        return Version(self._node, __version__)

    @app.operation("GET", "/whoami", scope="", gives={200: Identity})
    async def whoami(self, call: Call) -> Identity:
        """Tell the caller his name and scopes here."""
        caller = call.caller
        return Identity(caller.name, caller.kind, sorted(caller.scopes), caller.address)

    async def _ask(self, checks: Mapping[str, Check], call: Call) -> dict[str, str | None]:
        answers = await gather(*(self._asked(name, check) for name, check in checks.items()))
        reasons = dict(zip(checks, answers, strict=True))
        if call.caller.kind == "anonymous":
            # A reason may name hosts and folders, which are nobody's business but the operators'.
            return {name: reason if reason in (None, SILENT) else "unavailable" for name, reason in reasons.items()}
        return reasons

    async def _asked(self, name: str, check: Check) -> str | None:
        try:
            return await within(PATIENCE, check(), self._clock, name)
        except TimeoutError:
            return SILENT
        except CancelledError:
            raise
        except Exception:
            log.failure("the check of {part} failed", part=name)
            return "its check failed"


SILENT = f"no answer within {PATIENCE:g} s"
