"""Klein with what every operation of the hub needs: identity, shapes, JSON, errors; in one place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, TypeVar, cast

import msgspec
from klein import Klein, KleinRenderable
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from datahub.auth import Caller
from datahub.auth.identity import ACCEPTED
from datahub.errors import NotAuthenticated
from datahub.kit.aio import shield, start
from datahub.web.answer import Answer, Flow
from datahub.web.body import decode
from datahub.web.errors import Refusal
from datahub.web.live import Live, send
from datahub.web.request import HubRequest

__all__ = ["Answer", "App", "Call", "Flow", "Operation"]

Shape = type[msgspec.Struct]
Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True, slots=True)
class Operation:
    """What is declared of an operation: all that the documentation tells, and all that is checked before it runs."""

    methods: tuple[str, ...]
    path: str
    scope: str
    takes: Shape | None
    bodies: Mapping[str, Shape | None]
    gives: Mapping[int, Shape | None]
    refuses: Refusal | None
    summary: str
    strangers: bool

    @property
    def name(self) -> str:
        """Unique within its app."""
        return f"{'|'.join(self.methods)} {self.path}"

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, so that it may be given up half-way."""
        return self.methods == ("GET",)


@dataclass(frozen=True, slots=True)
class Call:
    """One request for an operation, as its method sees it."""

    request: HubRequest
    caller: Caller
    body: bytes

    @property
    def address(self) -> str:
        """The host address of the caller; "unix" on a local socket."""
        return self.caller.address

    @property
    def request_id(self) -> str:
        """What this request is called in logs."""
        return self.request.request_id

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.request.verb

    @property
    def path(self) -> str:
        """The path as it was sent, percent-encoded."""
        return self.request.place

    @property
    def query(self) -> str:
        """What stands behind the path, as it was sent."""
        return self.request.uri.partition(b"?")[2].decode("ascii", "replace")

    def header(self, name: str) -> str | None:
        """A request header, or None."""
        return self.request.header(name)


class App(Klein):
    """The operations of a capability; as with Klein, a class attribute that each object binds for itself.

    ``refuses`` shapes the errors of all that is asked below its paths, except where an operation has its own.
    Without ``strangers`` no operation is for callers without credentials, whatever the listener allows them.
    """

    body_limit: int | None = None
    """How large a request's body may be, for an object that has this attribute; None: as in [limits]."""

    def __init__(self, refuses: Refusal | None = None, *, strangers: bool = True) -> None:
        super().__init__()
        self.strangers = strangers
        self.operations: dict[str, Operation] = {}
        self.shortcuts: dict[int, tuple[Operation, tuple[str, ...], str]] = {}
        self.refuses = refuses
        # A path means one thing or nothing: no redirects, which turn a POST into a GET on their way.
        self.url_map.strict_slashes = False
        self.url_map.merge_slashes = False
        self.url_map.redirect_defaults = False
        self.handle_errors(Exception)(_refuse)  # type: ignore[arg-type]  # two or three arguments, as it says

    def __get__(self, instance: Any, owner: object) -> App:
        """The same app, its operations bound to ``instance``."""
        bound = cast(App, super().__get__(instance, owner))
        bound.operations = self.operations
        bound.shortcuts = self.shortcuts
        bound.refuses = self.refuses
        bound.body_limit = getattr(instance, "body_limit", None)
        return bound

    def operation(
        self,
        method: str | tuple[str, ...],
        path: str,
        *,
        scope: str,
        takes: Shape | None = None,
        gives: Mapping[int, Shape | None] | None = None,
        refuses: Refusal | None = None,
        bodies: Mapping[str, Shape | None] | None = None,
        at_once: str = "",
    ) -> Callable[[Method], Method]:
        """Serve ``path`` (a Werkzeug rule) by ``async def f(self, call, taken, **path_arguments)``.

        ``scope`` "" means everybody; ``taken`` is left out if nothing is taken. ``bodies`` tells, for the description
        only, what the function reads from the body by itself, by media type (None: any bytes). An operation that
        answers to GET alone is cancelled when its caller leaves; any other runs to its end. Such a one may name a
        plain method, ``at_once``, which gives the answer if that is at hand, else None: it is asked before anything is
        routed, which costs more than all the rest.
        """
        methods = (method,) if isinstance(method, str) else method

        def declare(function: Method) -> Method:
            summary = (getdoc(function) or "").partition("\n")[0]
            operation = Operation(
                methods, path, scope, takes, bodies or {}, gives or {}, refuses, summary, self.strangers
            )
            self.operations[operation.name] = operation
            if at_once:
                parts = tuple(path.split("/")[1:])
                self.shortcuts[len(parts)] = operation, parts, at_once
            return self.route(path, methods=list(methods), endpoint=operation.name)(function)

        return declare

    def segments(self) -> Iterator[str]:
        """The first parts of all paths served; raises `ValueError` for a path that has no fixed one."""
        for segment in dict.fromkeys(operation.path.split("/")[1] for operation in self.operations.values()):
            if not segment or "<" in segment:
                raise ValueError(f"a path must begin with a fixed part, not with {segment!r}")
            yield segment

    def answer_at_once(self, request: HubRequest, segments: Sequence[str]) -> bytes | None:
        """Answer a GET for the path of ``segments``, if that can be done without waiting."""
        if request.method != b"GET" or len(segments) not in self.shortcuts:
            return None
        operation, parts, method = self.shortcuts[len(segments)]
        arguments = {}
        for part, segment in zip(parts, segments, strict=True):
            if part.startswith("<"):
                arguments[part[1:-1]] = segment
            elif part != segment:
                return None
        call = Call(request, _permitted(request, operation), b"")
        answer = getattr(self._instance, method)(call, **arguments)
        return None if answer is None else request.prepare(answer)

    def execute_endpoint(self, endpoint: str, request: IRequest, *args: Any, **kwargs: Any) -> KleinRenderable:
        """Run an operation: cancellable if it only reads, else to its end."""
        operation = self.operations[endpoint]
        ours = cast(HubRequest, request)
        ours.refuses = operation.refuses or self.refuses
        performed = self._perform(operation, ours, kwargs)
        return start(performed) if operation.reads else shield(performed, operation.name)

    async def _perform(self, operation: Operation, request: HubRequest, arguments: Mapping[str, Any]) -> bytes:
        if not operation.reads:
            request.check_origin()
        caller = _permitted(request, operation)
        call = Call(request, caller, request.body(self.body_limit or request.site.limits.body))
        taken = () if operation.takes is None else (_taken(operation.takes, call),)
        with request.site.traffic.operation():
            answer = await cast(
                Awaitable[Any], super().execute_endpoint(operation.name, cast(IRequest, call), *taken, **arguments)
            )
        if isinstance(answer, Live):
            # What goes on for hours is no reason for a stop to wait.
            request.site.traffic.requests.discard(request)
            await send(request, answer)
            return b""
        if isinstance(answer, Flow):
            if answer.length is None:
                request.site.traffic.requests.discard(request)
            await request.flow(answer)
            return b""
        return request.prepare(_answer(answer))


def _permitted(request: HubRequest, operation: Operation) -> Caller:
    caller = request.identify()
    if not operation.strangers and caller.kind == "anonymous":
        raise NotAuthenticated(f"this is never done for callers without credentials; {ACCEPTED}")
    if operation.scope:
        caller.require(operation.scope)
    return caller


def _answer(result: object) -> Answer:
    match result:
        case Answer():
            return result
        case msgspec.Struct() | dict():
            return Answer(200, result)
    raise TypeError(f"an operation gives an Answer, a Struct or a dict, not {type(result).__name__}")


def _taken(shape: Shape, call: Call) -> msgspec.Struct:
    return decode(shape, call.body, call.header("content-type"), call.request.uri.partition(b"?")[2])


def _refuse(*bound_request_failure: Any) -> bytes:
    # Klein puts the object first, if the app is bound to one.
    request: HubRequest
    failure: Failure
    *_, request, failure = bound_request_failure
    return request.refuse(failure)
