"""Makes ``twistd datahub`` known to Twisted."""

from twisted.application.service import ServiceMaker

datahub = ServiceMaker(
    "datahub",
    "datahub.tap",
    "Delivers data from an archive: transfers, carts, jobs, sandbox, messages.",
    "datahub",
)
