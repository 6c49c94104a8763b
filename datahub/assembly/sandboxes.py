"""Files of Mesos tasks, by its masters and agents."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from datahub.assembly import Capability, House
from datahub.errors import StartError
from datahub.sandboxes.decoding import Decoder
from datahub.sandboxes.following import Pace, Watches
from datahub.sandboxes.masters import Masters
from datahub.sandboxes.mesos import Mesos
from datahub.sandboxes.routes import SandboxRoutes
from datahub.sandboxes.service import Sandboxes
from datahub.sandboxes.wire import TimeLimits, Wire, basic, trust

__all__ = ["build"]

LIMITS = TimeLimits()


def build(house: House) -> Capability:
    """Sandboxes as the configuration wants them; raises `StartError`."""
    section, reactor = house.config.sandbox, house.reactor
    policy = trust(verify=section.verify, ca=_read_ca(section.ca))
    wire = Wire(reactor, basic(section.username, section.password), policy, LIMITS)
    mesos = Mesos(wire, Masters(wire, section.masters), Decoder(reactor), section.state_ttl, section.agents)
    sandboxes = Sandboxes(mesos, Watches(Pace(), reactor), section.limit)
    return Capability(
        app=SandboxRoutes(sandboxes, LIMITS.stall).app,
        parts={"Mesos": wire},
        checks={"mesos": mesos.check} if section.masters else {},
    )


def _read_ca(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        found = path.read_bytes()
        x509.load_pem_x509_certificates(found)
    except (OSError, ValueError) as error:
        raise StartError(f"[sandbox] ca: {path} must hold certificates in PEM form: {error}") from error
    return found
