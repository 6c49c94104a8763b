"""How the hub itself is: for load balancers, for operators, and for callers who wonder who they are."""

from datahub.health.routes import Health

__all__ = ["Health"]
