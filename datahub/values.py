"""How the values of the configuration are read, and in which words a wrong one is refused.

Texts about URLs and tokens never show a value that may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from datahub.kit.endpoints import parse_endpoint
from datahub.kit.settings import Given, choice, mapping, text

__all__ = [
    "GRID_SCHEMES",
    "LEVELS",
    "NODE",
    "PIPELINES",
    "SERVICES",
    "TOKEN_NAME",
    "check_host",
    "check_master",
    "check_open_scope",
    "check_pipeline",
    "check_proxy",
    "check_scope",
    "check_service",
    "lacks_archive",
    "read_archive",
    "read_below_state",
    "read_database",
    "read_digest",
    "read_endpoint",
    "read_levels",
    "read_mesos_password",
    "read_messages",
    "read_mover",
    "read_queue",
    "read_secret",
    "read_source",
    "read_staged",
    "read_stager",
    "read_state",
    "read_trust",
    "read_web_address",
    "read_weight",
]

SERVICES: Final = ("transfers", "carts", "jobs", "sandbox", "messages")
PIPELINES: Final = ("transfers", "carts", "jobs")
"""The services whose work goes on after the answer, and whose records belong to their submitters."""

GRID_SCHEMES: Final = ("gsiftp", "davs", "https", "root")
"""The schemes of destinations on other hosts."""
_VERBS: Final = ("read", "write", "admin")
_SPECIAL: Final = ("transfers:stage",)
LEVELS: Final = ("debug", "info", "warn", "error", "critical")
_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
}
_NOT_YET: Final = "is not in this version"
NODE: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)


def check_service(name: str, known: tuple[str, ...] = SERVICES) -> str:
    """Give ``name`` back if it is one of this version's ``known`` services; raises `ValueError`."""
    if name in known:
        return name
    raise ValueError(f'is "{name}"; it must be one of {", ".join(known)}')


def check_pipeline(name: str) -> str:
    """Give ``name`` back if it is a service of `PIPELINES`; raises `ValueError`."""
    return check_service(name, PIPELINES)


def check_scope(scope: str) -> str:
    """Give ``scope`` back if it can be granted: a verb, or ``service:verb``; raises `ValueError`."""
    service, colon, verb = scope.rpartition(":")
    if scope in _SPECIAL:
        return scope
    if verb in _VERBS and (not colon or service in SERVICES):
        return scope
    raise ValueError(f'is "{scope}"; it must be read, write or admin, or one of them for a service: transfers:read')


def check_open_scope(scope: str) -> str:
    """Give ``scope`` back if callers without credentials can have it; raises `ValueError`."""
    if scope in _SPECIAL:
        raise ValueError(f'"{scope}" is for callers with credentials only; a stager without any has its authcode')
    return check_scope(scope)


def check_host(name: str) -> str:
    """Give ``name`` back if it can be that of a host; raises `ValueError`."""
    if re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?", name):
        return name
    raise ValueError(f'is "{name}"; it must be a name without a port, like hub.example.org')


def check_proxy(address: str) -> str:
    """Give ``address`` back if a proxy can have it; raises `ValueError`."""
    try:
        _ = address == "unix" or ip_network(address, strict=False)
    except ValueError:
        wanted = 'an address or a network, like 127.0.0.1 or 10.0.0.0/8, or "unix" for those that come by a socket file'
        raise ValueError(f'is "{address}"; it must be {wanted}') from None
    return address


def check_master(url: str) -> str:
    """Give ``url`` back if it is that of a Mesos master; raises `ValueError`, which does not show a password."""
    wanted = "must be a URL like http://mesos.example.org:5050"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"is no URL; it {wanted}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("has credentials in a URL; they belong into username and password")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f'is "{url}"; it {wanted}')
    return url


def read_mesos_password(given: Given) -> str:
    """A password that Mesos can take."""
    if isinstance(given.value, str) and ":" not in given.value:
        return given.value
    raise ValueError("must be a string without a colon: Mesos takes no other password")


def read_state(given: Given) -> Path:
    """Read the state folder."""
    wanted = 'a folder such as "/var/lib/datahub"'
    return given.folder / text(".+", wanted)(given)


def read_below_state(given: Given) -> Path:
    """Read a folder below the state folder."""
    return Path(given.string('a folder such as "log", below the state folder'))


def read_endpoint(given: Given) -> str:
    """Read a Twisted endpoint that listens without TLS."""
    endpoint = given.string('a string like "tcp:8080:interface=127.0.0.1"')
    if endpoint.startswith(("ssl:", "tls:")):
        raise ValueError('speaks TLS by itself; write a "tcp:" endpoint and give it a [listen.tls]')
    parse_endpoint(endpoint)
    return endpoint


def _url(given: Given, example: str) -> SplitResult:
    url = given.string(f"a URL like {example}")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"is no URL; it must be like {example}, with special characters percent-encoded") from None
    return parts


def read_database(given: Given) -> str:
    """Read the database's URL and give it its driver."""
    parts = _url(given, "sqlite:///datahub.sqlite")
    if parts.scheme == "sqlite":
        return _sqlite(given.value, parts)
    if parts.scheme not in _DRIVERS:
        known = "sqlite:///, postgresql+psycopg:// or mysql+pymysql://"
        raise ValueError(f'starts with "{parts.scheme}:"; it must be {known}')
    if not parts.path.strip("/"):
        raise ValueError(f"names no database; it must be like {parts.scheme}://user:password@host/datahub")
    return f"{_DRIVERS[parts.scheme]}:{given.value.partition(':')[2]}"


def _sqlite(url: str, parts: SplitResult) -> str:
    if parts.netloc or not parts.path.strip("/") or parts.query or not url.startswith("sqlite:///"):
        raise ValueError("must be sqlite:/// and the name of a file, like sqlite:///datahub.sqlite")
    return url


def read_queue(given: Given) -> str:
    """Read the queue's URL."""
    parts = _url(given, "amqp://user:password@host:5672/vhost")
    if given.value == "embedded:":
        return "embedded:"
    if parts.scheme not in {"amqp", "amqps"}:
        raise ValueError(f'starts with "{parts.scheme}:"; it must be embedded: or amqp:// or amqps://')
    if not parts.hostname:
        raise ValueError(f"names no host; it must be like {parts.scheme}://user:password@host:5672/vhost")
    return str(given.value)


def read_archive(given: Given) -> str:
    """Read the archive's URL."""
    parts = _url(given, "file:///srv/archive")
    if parts.scheme in {"pacifica+http", "pacifica+https"}:
        if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise given.wrong("the URL of an archive interface, like pacifica+http://archive.example.org:8080/")
        return str(given.value)
    if not given.value.startswith("file:///"):
        raise given.wrong("file:// and an absolute folder, like file:///srv/archive, or pacifica+http:// and a host")
    return str(given.value)


def read_stager(given: Given) -> str:
    """Read who stages: the archive, or a URL."""
    wanted = '"archive:", which stages from [archive], or the URL of a stager, like https://stager.example.org/'
    if given.string(wanted).startswith("tape+"):
        raise ValueError(f"a tape system {_NOT_YET}; it must be {wanted}")
    return text("archive:", wanted)(given) if given.value.startswith("archive:") else read_web_address(given, wanted)


def read_web_address(given: Given, wanted: str) -> str:
    """Read a web address without a user in it."""
    parts = _url(given, wanted)
    if "@" in parts.netloc:
        raise ValueError("has a user in it, which would show in logs and records; a token belongs into a token_file")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment:
        raise given.wrong(wanted)
    return str(given.value)


def read_staged(given: Given) -> Path:
    """Read the folder below which a stager stages."""
    return Path(text("/.*", 'an absolute folder, like "/srv/staged"')(given))


def read_mover(scheme: str, given: Given) -> str:
    """Read who moves to destinations of ``scheme``."""
    if scheme in GRID_SCHEMES:
        return _grid_mover(given)
    wanted = 'local: and an absolute folder, such as "local:/srv/deliveries"'
    mover = given.string(wanted)
    if scheme != "file":
        known = ", ".join(("file", *GRID_SCHEMES))
        raise ValueError(f"is a scheme to which nothing is moved in this version, which knows {known}")
    if mover.startswith(("fts+", "gfal:", "webdav:")):
        raise ValueError(f'the mover "{mover.partition(":")[0]}:" does not move to this host; it must be {wanted}')
    return text(r"local:/[^?]*(\?mode=0?[0-7]{3})?", wanted)(given)


def _grid_mover(given: Given) -> str:
    wanted = '"gfal:", or an FTS server, like "fts+https://fts.example.org:8446"'
    mover = given.string(wanted)
    if mover.startswith("webdav:"):
        raise ValueError(f'the mover "webdav:" {_NOT_YET}; it must be {wanted}')
    if mover == "gfal:":
        return mover
    parts = _url(given, wanted)
    if parts.scheme != "fts+https" or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise given.wrong(wanted)
    return mover.rstrip("/")


def read_source(given: Given) -> str:
    """Read how other hosts reach the files of this one: a URL that is put before their paths."""
    wanted = "a URL that is put before a path of this host, like gsiftp://hub.example.org"
    parts = _url(given, wanted)
    if parts.scheme not in GRID_SCHEMES or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise given.wrong(wanted)
    return str(given.value).rstrip("/")


def read_trust(given: Given) -> Path:
    """Read the path of a file of certificates, or of a folder as grid programs have it."""
    path = given.folder / given.string("the path of a file or folder")
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}; paths are relative to {given.folder}")
    return path


def read_weight(_: str, given: Given) -> float:
    """Read a submitter's weight."""
    if isinstance(given.value, int | float) and not isinstance(given.value, bool) and 0.01 <= given.value <= 100:
        return float(given.value)
    raise given.wrong("a number from 0.01 to 100, such as 2.0")


def read_messages(given: Given) -> str:
    """Read where messages are kept."""
    example = "redis://:password@127.0.0.1:6379/0"
    parts = _url(given, example)
    if given.value == "database:":
        return "database:"
    if parts.scheme != "redis":
        raise ValueError(f'starts with "{parts.scheme}:"; it must be database: or redis://, like {example}')
    if not parts.hostname or parts.query or parts.fragment or not re.fullmatch("/?|/[0-9]{1,4}", parts.path, re.ASCII):
        raise ValueError(f"must be redis:// with a host, and perhaps the number of a database, like {example}")
    return str(given.value)


def read_secret(given: Given) -> str:
    """Read a token."""
    if isinstance(given.value, str) and re.fullmatch(r"[!-~]+", given.value):
        return given.value
    raise ValueError("must be printable ASCII without blanks; `datahub token` makes a good one")


def read_digest(given: Given) -> str:
    """Read a token's hash."""
    if isinstance(given.value, str) and re.fullmatch(r"sha256:[0-9a-fA-F]{64}", given.value):
        return given.value.partition(":")[2].lower()
    raise ValueError("must be sha256: and 64 hexadecimal digits, as `datahub token` prints it")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Undo TOML's nesting of dotted keys: ``twisted.web = "warn"`` names one namespace."""
    for name, each in table.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{name}.")
        else:
            yield prefix + name, each


def read_levels(given: Given) -> dict[str, str]:
    """Read levels by namespace; dotted names are one."""
    read = mapping(lambda _, level: choice(*LEVELS)(level))
    return read(replace(given, value=dict(_flat(given.table()))))


def lacks_archive(document: Mapping[str, Any]) -> bool:
    """Whether transfers or carts are offered, or worked on, without an archive; told of wrong documents, too."""

    def table(name: str) -> Mapping[str, Any]:
        return value if isinstance(value := document.get(name, {}), dict) else {}

    if not {"url", "url_file"}.isdisjoint(table("archive")) and table("archive").get("url") != "":
        return False
    listens = document.get("listen", [{}])
    offers = [each for each in listens if isinstance(each, dict)] if isinstance(listens, list) else []
    named = [table("hub").get("workers", PIPELINES), *(each.get("services", SERVICES) for each in offers)]
    found = [each for each in named if isinstance(each, list | tuple | str)]
    return any(name in each for each in found for name in ("transfers", "carts"))
