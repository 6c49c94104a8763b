"""Print the OpenAPI description of this version's operations: `make openapi` keeps it as docs/openapi.json."""

from __future__ import annotations

import sys

import msgspec

from datahub import __version__
from datahub.carts.pacifica import CartdRoutes
from datahub.carts.routes import CartRoutes
from datahub.health.events import EventRoutes
from datahub.health.routes import Health
from datahub.jobs.routes import JobRoutes
from datahub.messages.routes import MessageRoutes
from datahub.sandboxes.routes import SandboxRoutes
from datahub.transfers.routes import TransferRoutes
from datahub.web.openapi import describe

SERVED = (Health, EventRoutes, TransferRoutes, CartRoutes, CartdRoutes, JobRoutes, SandboxRoutes, MessageRoutes)
described = describe([each.app for each in SERVED], __version__)
sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(described, order="sorted"), indent=2) + b"\n")
