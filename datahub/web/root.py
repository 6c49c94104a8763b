"""The root of a listener: which app answers a path."""

# mypy: allow-untyped-calls
# (Twisted's own methods have no types, and are called here as ours.)
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from werkzeug.exceptions import MethodNotAllowed

from datahub import __version__
from datahub.errors import InvalidRequest, NotFound
from datahub.web.app import App
from datahub.web.request import HubRequest

__all__ = ["Root"]


class Root(Resource):
    """Lets the first part of a path choose the app.

    ``rest`` answers at the root itself and at all that nobody else claims. Raises `ValueError` if two apps claim the
    same part. ``largest_body`` is what the most generous app takes.
    """

    isLeaf = True

    def __init__(self, apps: Iterable[App], rest: App | None = None) -> None:
        super().__init__()
        self._rest = None if rest is None else (rest, rest.resource())
        self._resources: dict[str, tuple[App, IResource]] = {}
        self.largest_body = 0 if rest is None else rest.body_limit or 0
        for app in apps:
            self.largest_body = max(self.largest_body, app.body_limit or 0)
            for segment in app.segments():
                if segment in self._resources:
                    raise ValueError(f"two apps answer at /{segment}")
                self._resources[segment] = app, app.resource()

    def render(self, request: IRequest) -> Any:
        """Answer, or raise what the request turns into a problem."""
        ours = cast(HubRequest, request)
        segments = [_text(part) for part in ours.postpath or ()]
        _text(ours.getRequestHostname())
        ours.site.guard.check_host(ours.header("host"))
        found = self._resources.get(segments[0], self._rest)
        if found is None and segments == [""]:
            return _greeting(ours)
        if found is None:
            raise NotFound(f"there is nothing at {ours.place}")
        app, resource = found
        ours.refuses = app.refuses
        # A NUL is in no name, and PostgreSQL would fail rather than find nothing.
        if any("\0" in each for each in segments):
            raise NotFound(f"there is nothing at {ours.place}")
        answer = app.answer_at_once(ours, segments)
        return resource.render(request) if answer is None else answer


def _text(part: bytes) -> str:
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("the URL must be UTF-8, percent-encoded", field="url") from None


def _greeting(request: HubRequest) -> bytes:
    if request.method not in (b"GET", b"HEAD"):
        raise MethodNotAllowed(["GET", "HEAD"])
    request.setHeader("Content-Type", "text/plain; charset=utf-8")
    return f"datahub {__version__} at {request.site.node}; see /health and /version\n".encode()
