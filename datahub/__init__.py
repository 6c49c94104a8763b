"""datahub: one event-driven daemon that gets data out of an archive."""

__all__ = ["__version__"]

__version__ = "0.1.0"
