"""Print the OpenAPI description of this version's operations: `make openapi` keeps it as docs/openapi.json."""

from __future__ import annotations

import sys

import msgspec

from datahub import __version__
from datahub.health.events import EventRoutes
from datahub.health.routes import Health
from datahub.jobs.routes import JobRoutes
from datahub.messages.routes import MessageRoutes
from datahub.sandboxes.routes import SandboxRoutes
from datahub.transfers.routes import TransferRoutes
from datahub.web.openapi import describe

described = describe(
    [Health.app, EventRoutes.app, TransferRoutes.app, JobRoutes.app, SandboxRoutes.app, MessageRoutes.app], __version__
)
sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(described, order="sorted"), indent=2) + b"\n")
