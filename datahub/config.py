"""The configuration: TOML becomes frozen, typed sections, or one error that tells everything that is wrong.

Each section below is the table of its keys: type, how it is read, default. `etc/datahub.toml` explains them to people.
"""

# ruff: noqa: RUF009 - key() gives dataclass its field

from __future__ import annotations

import hashlib
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from datahub.errors import StartError
from datahub.kit.endpoints import parse_endpoint
from datahub.kit.settings import (
    Given,
    choice,
    duration,
    file,
    integer,
    key,
    listed,
    mapping,
    optional,
    section,
    size,
    switch,
    tables,
    text,
    words,
)
from datahub.values import (
    GRID_SCHEMES,
    LEVELS,
    NODE,
    PIPELINES,
    SERVICES,
    TOKEN_NAME,
    check_host,
    check_master,
    check_open_scope,
    check_pipeline,
    check_proxy,
    check_scope,
    check_service,
    lacks_archive,
    read_archive,
    read_below_state,
    read_database,
    read_digest,
    read_endpoint,
    read_levels,
    read_mesos_password,
    read_messages,
    read_mover,
    read_queue,
    read_secret,
    read_source,
    read_staged,
    read_stager,
    read_state,
    read_trust,
    read_web_address,
    read_weight,
)

__all__ = [
    "SERVICES",
    "ArchiveSection",
    "AuthSection",
    "CartsSection",
    "Config",
    "ConfigError",
    "DatabaseSection",
    "HubSection",
    "JobLimits",
    "JobsSection",
    "LimitsSection",
    "ListenSection",
    "LogSection",
    "MessagesSection",
    "MoverSection",
    "QueueSection",
    "SandboxSection",
    "StagerSection",
    "TlsSection",
    "TokenSection",
    "TransfersSection",
    "check_scope",
    "find",
    "load",
]


class ConfigError(StartError):
    """The configuration can't be used; ``problems`` has one line for each thing wrong, ``file`` says in which file."""

    def __init__(self, file: Path, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.file = file
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class HubSection:
    """The daemon as a whole."""

    state: Path = key(read_state, "/var/lib/datahub")
    node: str = key(text(NODE, "a name of letters, digits, . _ -"), socket.gethostname)
    workers: tuple[str, ...] = key(words(check_pipeline), PIPELINES)
    url: str | None = key(
        optional(partial(read_web_address, wanted="how the world reaches the hub, like https://hub.example.org")), ""
    )
    min_free: int = key(size("0 B", "1000 TB"), "2 GB")
    keep_events: float = key(duration("1 min", "9999 d"), "400 d")
    idempotency: float = key(duration("1 min", "999 d"), "7 d")
    drain: float = key(duration("0 s", "1 d"), "60 s")


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """What one caller may ask of every listener."""

    connections: int = key(integer(1, 1_000_000), 20_000)
    header: int = key(size("1 KiB", "1 MiB"), "16 KiB")
    body: int = key(size("1 KiB", "1 GB"), "1 MB")
    idle: float = key(duration("1 s", "1 d"), "60 s")


@dataclass(frozen=True, slots=True)
class TlsSection:
    """The certificate of a listener that speaks TLS."""

    certificate: Path = key(file, example='"hub.pem"')
    key: Path = key(file, example='"hub.key"')


@dataclass(frozen=True, slots=True)
class ListenSection:
    """One place where callers are answered; ``anonymous`` None means as in [auth]."""

    endpoint: str = key(read_endpoint, "tcp:8080:interface=127.0.0.1")
    services: tuple[str, ...] = key(words(check_service), SERVICES)
    anonymous: tuple[str, ...] | None = key(optional(words(check_open_scope)), None)
    hosts: tuple[str, ...] = key(words(check_host), [])
    proxies: tuple[str, ...] = key(words(check_proxy), [])
    tls: TlsSection | None = key(optional(section(TlsSection, later="client_ca require_client crl")), None)


@dataclass(frozen=True, slots=True)
class DatabaseSection:
    """Where state lives; a database file has its absolute path in ``url``."""

    url: str = key(read_database, "sqlite:///datahub.sqlite")
    wait: float = key(duration("0 s", "1 d"), "60 s")


@dataclass(frozen=True, slots=True)
class QueueSection:
    """How work is announced."""

    url: str = key(read_queue, "embedded:")


@dataclass(frozen=True, slots=True)
class ArchiveSection:
    """Where files come from; None where nothing that needs it is done."""

    url: str | None = key(optional(read_archive), "")


@dataclass(frozen=True, slots=True)
class TokenSection:
    """A caller with a token; ``digest`` is the SHA-256 of its UTF-8, in hexadecimal."""

    name: str
    digest: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """What the configuration says of a token."""

    scopes: tuple[str, ...] = key(words(check_scope, at_least=1), example='["read", "write"]')
    token: str | None = key(optional(read_secret), None)
    hash: str | None = key(optional(read_digest), None)


def _token(name: str, given: Given) -> TokenSection:
    if not TOKEN_NAME.fullmatch(name) or name == "me" or name.startswith("anonymous@"):
        raise ValueError('is no name for a caller; it must be letters, digits, . _ @ + -, not "me" or "anonymous@…"')
    keys = section(TokenKeys)(given)
    if (keys.token is None) == (keys.hash is None):
        raise ValueError("must have exactly one of token, token_file or hash (`datahub token` prints a hash)")
    digest = keys.hash or hashlib.sha256((keys.token or "").encode()).hexdigest()
    return TokenSection(name, digest, keys.scopes)


def _tokens(given: Given) -> tuple[TokenSection, ...]:
    found = tuple(mapping(_token)(given).values())
    first: dict[str, str] = {}
    for each in found:
        same = first.setdefault(each.digest, each.name)
        if same != each.name:
            raise ValueError(f"{same} and {each.name} have the same token; give each caller one of its own")
    return found


@dataclass(frozen=True, slots=True)
class AuthSection:
    """Who may do what."""

    shared: tuple[str, ...] = key(words(check_pipeline), ["jobs"])
    anonymous: tuple[str, ...] = key(words(check_open_scope), [])
    tokens: tuple[TokenSection, ...] = key(_tokens, {})


@dataclass(frozen=True, slots=True)
class StagerSection:
    """Who the hub is to a stager that calls back, and whom it trusts; None: nobody, and the machine's authorities."""

    certificate: Path | None = key(optional(file), None)
    ca: Path | None = key(optional(file), None)
    token: str | None = key(optional(read_secret), None)
    key: Path | None = key(optional(file), None)


def _stager_options(given: Given) -> StagerSection:
    options = section(StagerSection)(given)
    if (options.certificate is None) != (options.key is None):
        raise ValueError("has one of certificate and key; they belong together")
    return options


@dataclass(frozen=True, slots=True)
class MoverSection:
    """Who the hub is to the servers of a scheme, whom it trusts, and how they reach what is staged here."""

    certificate: Path | None = key(optional(file), None)
    ca: Path | None = key(optional(read_trust), None)
    proxy: Path | None = key(optional(file), None)
    token: str | None = key(optional(read_secret), None)
    token_file: Path | None = key(optional(file), None)
    source: str | None = key(optional(read_source), None)
    key: Path | None = key(optional(file), None)


def _mover_options(scheme: str, given: Given) -> MoverSection:
    if scheme not in GRID_SCHEMES:
        raise ValueError(f"has no options; those have {', '.join(GRID_SCHEMES)}")
    options = section(MoverSection)(given)
    if (options.certificate is None) != (options.key is None):
        raise ValueError("has one of certificate and key; they belong together")
    return options


@dataclass(frozen=True, slots=True)
class TransfersSection:
    """Deliveries: from where, to where, how many at once; ``movers`` maps a destination's scheme to its mover."""

    stager: str = key(read_stager, "archive:")
    stager_method: str = key(choice("POST", "GET"), "POST")
    stager_options: StagerSection = key(_stager_options, {})
    staged: Path | None = key(optional(read_staged), "")
    callback: str | None = key(
        optional(partial(read_web_address, wanted="where a stager reports, like https://hub/doneStaging")), ""
    )
    staging_timeout: float = key(duration("1 s", "999 d"), "6 h")
    staging_concurrent: int = key(integer(1, 10_000), 4)
    moving_concurrent: int = key(integer(1, 10_000), 4)
    fts_concurrent: int = key(integer(1, 100_000), 1000)
    fts_timeout: float = key(duration("1 h", "999 d"), "7 d")
    retry_for: float = key(duration("0 s", "999 d"), "3 d")
    movers: Mapping[str, str] = key(mapping(read_mover), {})
    mover_options: Mapping[str, MoverSection] = key(mapping(_mover_options), {})
    keep: float = key(duration("1 min", "9999 d"), "400 d")
    weights: Mapping[str, float] = key(mapping(read_weight), {})

    @property
    def calls_back(self) -> bool:
        """Whether the stager is another program, which reports when it is done."""
        return self.stager != "archive:"


@dataclass(frozen=True, slots=True)
class CartsSection:
    """Carts: how long they stay, how much room their files may take, how many are staged at once."""

    path: Path = key(read_below_state, "carts")
    space: int = key(size("1 kB", "1000 TB"), "100 GB")
    evict_after: float = key(duration("0 s", "9999 d"), "1 h")
    keep: float = key(duration("1 min", "9999 d"), "400 d")
    expire: float = key(duration("1 s", "9999 d"), "30 d")
    archive_concurrent: int = key(integer(1, 1000), 1)
    retry_for: float = key(duration("0 s", "999 d"), "1 d")
    staging_timeout: float = key(duration("1 s", "999 d"), "2 d")
    on_delete: str = key(choice("finish", "break"), "finish")
    old_clients: bool = key(switch, False)
    body_limit: int = key(size("1 KiB", "1 GB"), "64 MB")


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What a job may use that names no other limit: bytes, seconds, pieces; None: as much as the daemon."""

    processes: int | None = key(optional(integer(1, 1_000_000)), 1000)
    memory: int | None = key(optional(size("1 MiB", "1000 TB")), "")
    file_size: int | None = key(optional(size("1 KiB", "1000 TB")), "")
    cpu_time: float | None = key(optional(duration("1 s", "999 d")), "")
    open_files: int | None = key(optional(integer(3, 1_000_000)), None)

    def given(self) -> dict[str, int]:
        """Those that there are."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: int(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class JobsSection:
    """Jobs: what one gets that asks for nothing else, how many run here at once, how long they are kept."""

    timeout: float = key(duration("100 ms", "999 d"), "30 s")
    grace: float = key(duration("0 s", "1 h"), "10 s")
    concurrent: int = key(integer(1, 1000), 8)
    output_limit: int = key(size("64 KiB", "1000 TB"), "64 MB")
    keep: float = key(duration("1 min", "9999 d"), "30 d")
    keep_created: float = key(duration("1 min", "9999 d"), "1 d")
    keep_count: int = key(integer(1, 10_000_000), 100_000)
    wrapper: tuple[str, ...] = key(listed, [])
    limits: JobLimits = key(section(JobLimits), {})


@dataclass(frozen=True, slots=True)
class MessagesSection:
    """Messages: where they are kept, how large one may be, how many bytes of them stay in memory."""

    url: str = key(read_messages, "database:")
    limit: int = key(size("1 KiB", "16 MB"), "1 MB")
    cache: int = key(size("0 B", "1 TB"), "64 MB")


@dataclass(frozen=True, slots=True)
class SandboxSection:
    """Which Mesos, who the hub is there, and how much of a file is given at once."""

    masters: tuple[str, ...] = key(words(check_master), [])
    username: str = key(text("[^:]*", "a name without a colon"), "")
    password: str = key(read_mesos_password, "")
    agents: str = key(choice("auto", "http", "https"), "auto")
    limit: int = key(size("1 B", "1000 TB"), "1 GiB")
    state_ttl: float = key(duration("0 s", "1 h"), "5 s")
    verify: bool = key(switch, True)
    ca: Path | None = key(optional(file), "")


@dataclass(frozen=True, slots=True)
class LogSection:
    """What is logged, where and how; ``directory`` None means standard output."""

    level: str = key(choice(*LEVELS), "info")
    levels: Mapping[str, str] = key(read_levels, {})
    directory: Path | None = key(optional(read_below_state), "")
    max_bytes: int = key(size("10 kB", "1 TB"), 100_000_000)
    backups: int = key(integer(1, 1000), 5)
    format: str = key(choice("text", "json"), "text")


@dataclass(frozen=True, slots=True)
class Config:
    """All that the hub was told; ``folder`` is that of the configuration file."""

    hub: HubSection = key(section(HubSection, later="address"), {})
    limits: LimitsSection = key(section(LimitsSection), {})
    listen: tuple[ListenSection, ...] = key(tables(ListenSection, later="certificate_header"), [{}])
    database: DatabaseSection = key(section(DatabaseSection), {})
    queue: QueueSection = key(section(QueueSection), {})
    archive: ArchiveSection = key(section(ArchiveSection), {})
    auth: AuthSection = key(section(AuthSection, later="certificates jwt"), {})
    transfers: TransfersSection = key(section(TransfersSection, later="moving_by prepare"), {})
    carts: CartsSection = key(section(CartsSection), {})
    jobs: JobsSection = key(section(JobsSection), {})
    messages: MessagesSection = key(section(MessagesSection), {})
    sandbox: SandboxSection = key(section(SandboxSection), {})
    log: LogSection = key(section(LogSection), {})
    folder: Path = field(default_factory=Path)

    def serves(self, service: str) -> bool:
        """Say whether any listener offers ``service``."""
        return any(service in each.services for each in self.listen)

    def uses(self, service: str) -> bool:
        """Whether ``service`` is offered, or worked on."""
        return self.serves(service) or service in self.hub.workers

    def warnings(self) -> list[str]:
        """Say what is allowed but likely not meant, one line each with its path."""
        found = [
            f"listen[{index}]: callers without credentials may {', '.join(scopes)} here, and other machines reach "
            f"{each.endpoint}; listen on loopback, or take the scopes away"
            for index, each in enumerate(self.listen)
            if (scopes := self.auth.anonymous if each.anonymous is None else each.anonymous)
            and not parse_endpoint(each.endpoint).local
        ]
        if self.serves("transfers") and not self.transfers.movers:
            found.append('transfers.movers: is empty: nothing can be delivered; write file = "local:/srv/deliveries"')
        if self.transfers.calls_back and self.transfers.staged is None and set(self.transfers.movers) <= {"file"}:
            found.append(
                "transfers.staged: is empty: what the stager stages can't be read here, and so not be delivered"
            )
        return found


def find(argument: str | None, environ: Mapping[str, str]) -> Path:
    """Say which file to load: what ``--config`` gave, else ``$DATAHUB_CONFIG``, else the one in /etc."""
    return Path(argument or environ.get("DATAHUB_CONFIG") or "/etc/datahub/datahub.toml")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the configuration at ``path``, with the variables of ``environ``; raises `ConfigError` with all errors."""
    path = path.absolute()
    given = Given(_document(path), path.parent, environ)
    found: list[Config] = []
    with given.telling():
        found.append(section(Config, later="notify")(given))
    if lacks_archive(given.value):
        given.problems.append('archive.url: is missing; write it like "file:///srv/archive"')
    if given.problems:
        raise ConfigError(path, given.problems)
    config = replace(found[0], folder=path.parent)
    if problems := list(_grid_problems(config.transfers)):
        raise ConfigError(path, problems)
    return _placed(_reachable(path, config))


def _grid_problems(transfers: TransfersSection) -> Iterator[str]:
    """Say what is missing, or contradicts itself, between movers and their options."""
    servers: dict[str, tuple[str, MoverSection]] = {}
    for scheme in transfers.mover_options:
        if scheme not in transfers.movers:
            yield f"transfers.mover_options.{scheme}: has no mover; write one into [transfers.movers], or take it out"
    for scheme, mover in transfers.movers.items():
        options, place = transfers.mover_options.get(scheme, MoverSection()), f"transfers.mover_options.{scheme}"
        if mover == "gfal:" and options.ca is not None and not options.ca.is_dir():
            yield f"{place}.ca: must be a folder for gfal:, like /etc/grid-security/certificates"
        if not mover.startswith("fts+"):
            continue
        if options.certificate is None and options.proxy is None:
            yield f"{place}: must have certificate and key, or proxy: FTS knows the hub by them"
        if options.source is None and not transfers.calls_back:
            yield f"{place}.source: is missing: how FTS reaches the files of this host, like gsiftp://hub.example.org"
        first, known = servers.setdefault(mover, (scheme, options))
        if replace(known, source=None) != replace(options, source=None):
            yield f"{place}: is unlike that of {first}, but both are moved by {mover}, which knows the hub only once"


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, ["is not there; name another by --config or $DATAHUB_CONFIG"]) from None
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"is not UTF-8 text: byte {error.start} is wrong"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [f"is not TOML: {error}"]) from None


def _reachable(path: Path, config: Config) -> Config:
    """Say where a stager reports, unless it was said."""
    transfers = config.transfers
    if not transfers.calls_back or transfers.callback is not None:
        return config
    if config.hub.url is None:
        missing = "is missing: the stager must know where to report; write it, or [hub] url, which it is made from"
        raise ConfigError(path, [f"transfers.callback: {missing}"])
    return replace(config, transfers=replace(transfers, callback=config.hub.url.rstrip("/") + "/doneStaging"))


def _placed(config: Config) -> Config:
    """Put what the hub writes below its state folder."""
    state, log, database = config.hub.state, config.log, config.database
    if log.directory is not None:
        log = replace(log, directory=state / log.directory)
    if database.url.startswith("sqlite:///"):
        database = replace(database, url=f"sqlite:///{state / database.url.removeprefix('sqlite:///')}")
    carts = replace(config.carts, path=state / config.carts.path)
    return replace(config, log=log, database=database, carts=carts)
