"""The configuration: what is read, what is refused and in which words, and that etc/datahub.toml tells of every key."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from datahub.config import (
    AuthSection,
    ConfigError,
    ListenSection,
    MessagesSection,
    StagerSection,
    TlsSection,
    TransfersSection,
    check_scope,
    find,
    load,
)
from datahub.errors import StartError
from tests.configured import NEEDED_PARTS, Folder

SAMPLE = Path(__file__).parents[1] / "etc" / "datahub.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_least_configuration_has_every_default(folder: Folder) -> None:
    """An archive is all that must be named."""
    config = folder.load("", needed='[archive]\nurl = "file:///srv/archive"')
    assert config.hub.state == Path("/var/lib/datahub")
    assert config.hub.node == socket.gethostname()
    assert config.hub.workers == ("transfers", "carts", "jobs")
    assert (config.hub.min_free, config.hub.idempotency, config.hub.drain) == (2_000_000_000, 604_800.0, 60.0)
    assert (config.limits.connections, config.limits.header, config.limits.body) == (20_000, 16_384, 1_000_000)
    assert config.listen == (
        ListenSection(
            "tcp:8080:interface=127.0.0.1", ("transfers", "carts", "jobs", "sandbox", "messages"), None, (), (), None
        ),
    )
    assert config.database.url == "sqlite:////var/lib/datahub/datahub.sqlite"
    assert config.queue.url == "embedded:"
    assert config.auth == AuthSection(("jobs",), (), ())
    assert config.transfers == TransfersSection(
        stager="archive:",
        stager_method="POST",
        stager_options=StagerSection(None, None, None, None),
        staged=None,
        callback=None,
        staging_timeout=21_600.0,
        staging_concurrent=4,
        moving_concurrent=4,
        fts_concurrent=1000,
        fts_timeout=7 * 86_400,
        retry_for=259_200.0,
        movers={},
    )
    assert config.messages == MessagesSection("database:", 1_000_000, 64_000_000)
    assert (config.log.level, config.log.directory, config.log.format) == ("info", None, "text")
    assert config.folder == folder.path


STAGER = '[transfers]\nstager = "http://s:8081/stage?x=1"\nstager_options = { token = "t" }\n'


def test_callback_is_made_from_the_hubs_url(folder: Folder) -> None:
    """Unless it is given; in either case the stager's URL is taken as it is."""
    made = folder.load(STAGER + '[hub]\nurl = "https://hub.example.org:8443/"').transfers
    assert (made.stager, made.callback) == ("http://s:8081/stage?x=1", "https://hub.example.org:8443/doneStaging")
    assert made.calls_back
    assert made.stager_options.token == "t"
    given = folder.load(STAGER + 'callback = "http://proxy/hub/done"\nstaged = "/srv/staged"\n').transfers
    assert (given.callback, given.staged) == ("http://proxy/hub/done", Path("/srv/staged"))


def test_a_stager_whose_products_nobody_can_read_is_warned_of(folder: Folder) -> None:
    """Nothing could be delivered; with a folder named there is no warning."""
    (warning,) = folder.load(STAGER + 'callback = "http://h/"\n').warnings()
    assert warning.startswith("transfers.staged: is empty")
    assert folder.load(STAGER + 'callback = "http://h/"\nstaged = "/srv"\n').warnings() == []


def test_certificate_and_key_of_the_stagers_client_belong_together(folder: Folder) -> None:
    """One without the other is a slip."""
    (folder.path / "hub.pem").touch()
    problem = folder.problem('[transfers.stager_options]\ncertificate = "hub.pem"')
    assert problem == "transfers.stager_options: has one of certificate and key; they belong together"


def test_scope_of_stagers_can_be_granted(folder: Folder) -> None:
    """To a token, not to everybody."""
    assert check_scope("transfers:stage") == "transfers:stage"
    problem = folder.problem('[[listen]]\nanonymous = ["transfers:stage"]')
    assert problem.startswith('listen[0].anonymous[0]: "transfers:stage" is for callers with credentials only')


WRONG_THROUGHOUT = """
colour = "red"
[hub]
min_free = "2 GX"
drain = 60
workers = ["transfers", 3, "carriage", "transport"]
[limits]
connections = 0
[[listen]]
endpoint = "tcp:http"
[[listen]]
endpoint = "unix:/run/hub.sock"
anonymous = ["raed"]
[archive]
url = "srv/archive"
[auth.tokens.alice]
token = "x"
scopes = []
[transfers]
retry = "3 d"
[transfers.movers]
file = "local:srv"
gsiftp = "webdav"
[notify]
secret = "x"
"""


def test_all_errors_are_told_at_once(folder: Folder) -> None:
    """Each has a line with its path, what is wrong and what would be right; nothing is told twice."""
    assert folder.problems(WRONG_THROUGHOUT, needed="") == (
        (
            "colour: is not a known key; known are archive, auth, carts, database, hub, jobs, limits, listen, log,"
            " messages, queue, sandbox, transfers"
        ),
        "notify: is not in this version; leave it out",
        "hub.workers[1]: is 3; it must be a string",
        'hub.workers[2]: is "carriage"; it must be one of transfers, carts, jobs',
        'hub.workers[3]: is "transport"; it must be one of transfers, carts, jobs',
        (
            'hub.min_free: is "2 GX": the unit "GX" is not known (B, kB, KiB, MB, MiB, GB, GiB, TB, TiB); it must be'
            ' a size such as "64 KiB" or "2 GB"'
        ),
        'hub.drain: is 60; it must be a duration from "0 s" to "1 d", in quotes and with its unit',
        "limits.connections: is 0; it must be a whole number from 1 to 1000000",
        'listen[0].endpoint: is "tcp:http": the port must be a number from 0 to 65535, not "http"',
        (
            'listen[1].anonymous[0]: is "raed"; it must be read, write or admin, or one of them for a service:'
            " transfers:read"
        ),
        (
            'archive.url: is "srv/archive"; it must be file:// and an absolute folder, like file:///srv/archive,'
            " or pacifica+http:// and a host"
        ),
        "auth.tokens.alice.scopes: is empty; it must name at least one",
        'transfers.retry: is not a known key; did you mean "retry_for"?',
        (
            'transfers.movers.file: is "local:srv"; it must be local: and an absolute folder, such as'
            ' "local:/srv/deliveries"'
        ),
        (
            'transfers.movers.gsiftp: is "webdav"; it must be "gfal:", or an FTS server, like '
            '"fts+https://fts.example.org:8446"'
        ),
    )


def test_missing_archive_is_told_with_an_example(folder: Folder) -> None:
    """What must be given is asked for, also when its whole section is missing."""
    wanted = ('archive.url: is missing; write it like "file:///srv/archive"',)
    assert folder.problems("", needed="") == wanted
    assert folder.problems("[archive]", needed="") == wanted


LATER = {
    "hub": "address",
    "listen.tls": "client_ca require_client crl",
    "auth": "certificates jwt",
    "transfers": "moving_by prepare",
}


@pytest.mark.parametrize(("table", "name"), [(table, name) for table in LATER for name in LATER[table].split()])
def test_key_of_a_later_version_is_not_called_unknown(folder: Folder, table: str, name: str) -> None:
    """The contract's keys that do nothing yet are refused as such, not as mistakes."""
    head = "[[listen]]\n" if table.startswith("listen") else ""
    problems = folder.problems(f"{head}[{table}]\n{name} = 1\n")
    path = table.replace("listen", "listen[0]")
    assert f"{path}.{name}: is not in this version; leave it out" in problems


@pytest.mark.parametrize("name", ["certificate_header"])
def test_listener_key_of_a_later_version(folder: Folder, name: str) -> None:
    """So are those of a listener."""
    assert folder.problem(f"[[listen]]\n{name} = []") == f"listen[0].{name}: is not in this version; leave it out"


@pytest.mark.parametrize("name", ["notify"])
def test_section_of_a_later_version(folder: Folder, name: str) -> None:
    """And whole sections."""
    assert folder.problem(f"[{name}]\nanything = 1") == f"{name}: is not in this version; leave it out"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[database]\nurl = "oracle://x/y"', 'database.url: starts with "oracle:"; it must be sqlite:///'),
        ('[database]\nurl = "postgresql://u:hunter2@db"', "database.url: names no database"),
        ('[database]\nurl = "postgresql://u:hunter2@db:x/y"', "database.url: is no URL"),
        ('[database]\nurl = "postgresql://u:hun[ter2@db/y"', "database.url: is no URL"),
        ('[database]\nurl = "sqlite://"', "database.url: must be sqlite:///"),
        ('[database]\nurl = "sqlite:///:memory:?hunter2"', "database.url: must be sqlite:///"),
        ("[database]\nurl = 5", "database.url: is 5; it must be a URL like"),
        ('[database]\nwait = "2 d"', 'database.wait: is 2 d; it must be a duration from "0 s" to "1 d"'),
        (
            '[archive]\nurl = "pacifica+http:///x"',
            'archive.url: is "pacifica+http:///x"; it must be the URL of an archive',
        ),
        ('[archive]\nurl = "pacifica+ftp://a/"', 'archive.url: is "pacifica+ftp://a/"; it must be file:// and'),
        ('[carts]\nspace = "much"', 'carts.space: is "much"; it must be a size'),
        ('[carts]\non_delete = "wait"', 'carts.on_delete: is "wait"; it must be one of finish, break'),
        (
            '[transfers.movers]\nfile = "local:/d?mode=9"',
            'transfers.movers.file: is "local:/d?mode=9"; it must be local:',
        ),
        ('[transfers.movers]\nfile = "gfal:"', 'transfers.movers.file: the mover "gfal:" does not move to this host'),
        ('[transfers.movers]\nftp = "gfal:"', "transfers.movers.ftp: is a scheme to which nothing is moved"),
        ('[transfers.movers]\ndavs = "webdav:"', 'transfers.movers.davs: the mover "webdav:" is not in this version'),
        (
            '[transfers.movers]\ngsiftp = "fts+https://a@fts"',
            'transfers.movers.gsiftp: is "fts+https://a@fts"',
        ),
        (
            (
                '[transfers.movers]\ngsiftp = "fts+https://fts:8446"\n'
                '[transfers.mover_options.gsiftp]\nsource = "gsiftp://hub"'
            ),
            "transfers.mover_options.gsiftp: must have certificate and key, or proxy",
        ),
        ("[transfers.mover_options.gsiftp]", "transfers.mover_options.gsiftp: has no mover"),
        ("[transfers.mover_options.file]", "transfers.mover_options.file: has no options"),
        (
            '[transfers.movers]\ngsiftp = "gfal:"\n[transfers.mover_options.gsiftp]\nsource = "file:///d"',
            'transfers.mover_options.gsiftp.source: is "file:///d"; it must be a URL that is put before',
        ),
        (
            '[transfers.movers]\ngsiftp = "gfal:"\n[transfers.mover_options.gsiftp]\nca = "none"',
            "transfers.mover_options.gsiftp.ca: there is no file or folder",
        ),
        ('[queue]\nurl = "redis://hunter2@q"', 'queue.url: starts with "redis:"; it must be embedded: or amqp://'),
        ('[queue]\nurl = "amqp:///hunter2"', "queue.url: names no host"),
        ('[messages]\nurl = "memcache://hunter2@m"', 'messages.url: starts with "memcache:"; it must be database: or'),
        ('[messages]\nurl = "redis:///0"', "messages.url: must be redis:// with a host"),
        ('[messages]\nurl = "redis://m/hunter2"', "messages.url: must be redis:// with a host"),
        ('[messages]\nurl = "redis://m?hunter2"', "messages.url: must be redis:// with a host"),
        ('[messages]\nurl = "redis://:hunter2@m:x"', "messages.url: is no URL; it must be like redis://:password@127"),
        (
            '[transfers]\nstager = "tape+https://t.example.org"',
            "transfers.stager: a tape system is not in this version",
        ),
        ('[transfers]\nstager = "https://u:hunter2@s.example.org"', "transfers.stager: has a user in it"),
        (
            '[transfers]\nstager = "ftp://s.example.org"',
            'transfers.stager: is "ftp://s.example.org"; it must be "archive:"',
        ),
        ('[transfers]\nstager = "http://s"', "transfers.callback: is missing: the stager must know where to report"),
        ('[transfers]\nstager_method = "PUT"', 'transfers.stager_method: is "PUT"; it must be one of POST, GET'),
        ('[transfers]\nstaged = "here"', 'transfers.staged: is "here"; it must be an absolute folder'),
        ('[transfers]\ncallback = "hub"', 'transfers.callback: is "hub"; it must be where a stager reports'),
        ('[hub]\nurl = "hub.example.org"', 'hub.url: is "hub.example.org"; it must be how the world reaches the hub'),
        ('[transfers]\nstager = "x"', 'transfers.stager: is "x"; it must be "archive:"'),
        ("[transfers]\nmoving_concurrent = true", "transfers.moving_concurrent: is true; it must be a whole number"),
        ('[hub]\nnode = "a b"', 'hub.node: is "a b"; it must be a name of letters'),
        ('[hub]\nstate = ""', 'hub.state: is ""; it must be a folder'),
        ('[hub]\nstate = "/a\\u0000b"', 'hub.state: is "/a\\u0000b"; it must be a folder'),
        ("hub = 3", "hub: is 3; it must be a table of keys"),
        ('[log]\nformat = "xml"', 'log.format: is "xml"; it must be one of text, json'),
        ('[log]\nmax_bytes = "1 kB"', 'log.max_bytes: is 1 kB; it must be a size from "10 kB"'),
        ("[log]\nmax_bytes = 1.5", "log.max_bytes: is 1.5; it must be a size from"),
        ('[log.levels]\nstore = "loud"', 'log.levels.store: is "loud"; it must be one of debug'),
        ('[listen]\nendpoint = "tcp:80"', "listen: is a table; it must be written as [[listen]], with two brackets"),
        ('[[listen]]\nendpoint = "ssl:443"', "listen[0].endpoint: speaks TLS by itself"),
        ('[auth]\nshared = ["nobody"]', 'auth.shared[0]: is "nobody"; it must be one of transfers'),
        (
            '[auth]\nanonymous = ["transfers:stage"]',
            'auth.anonymous[0]: "transfers:stage" is for callers with credentials only',
        ),
        ('[auth]\nanonymous = ["transfers:"]', 'auth.anonymous[0]: is "transfers:"; it must be read'),
    ],
)
def test_wrong_value_is_named_with_what_would_be_right(folder: Folder, text: str, reason: str) -> None:
    """The line names path and mistake; a URL that may hold a password is never shown."""
    rest = [part for part in NEEDED_PARTS if part.splitlines()[0] not in text]
    (only,) = folder.problems("\n" + "".join(rest), needed=text)
    assert only.startswith(reason)
    assert "hunter2" not in only


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("sqlite:///other.sqlite", "sqlite:////var/lib/datahub/other.sqlite"),
        ("sqlite:////data/hub.sqlite", "sqlite:////data/hub.sqlite"),
        ("postgresql://u:p%40@db/hub", "postgresql+psycopg://u:p%40@db/hub"),
        ("postgresql+psycopg:///hub?host=/run/pg", "postgresql+psycopg:///hub?host=/run/pg"),
        ("mysql://u@db:3306/hub", "mysql+pymysql://u@db:3306/hub"),
        ("mariadb://u@db/hub", "mysql+pymysql://u@db/hub"),
        ("mysql+pymysql://u@db/hub", "mysql+pymysql://u@db/hub"),
    ],
)
def test_database_url_gets_its_driver_and_place(folder: Folder, given: str, read: str) -> None:
    """A file lies in the state folder, a server is spoken to by the driver we ship."""
    assert folder.load(f'[database]\nurl = "{given}"').database.url == read


@pytest.mark.parametrize("url", ["embedded:", "amqp://u:p@mq:5672/v", "amqps://mq"])
def test_queue_url(folder: Folder, url: str) -> None:
    """All kinds of queue of this version."""
    assert folder.load(f'[queue]\nurl = "{url}"').queue.url == url


@pytest.mark.parametrize(
    "url", ["database:", "redis://m", "redis://127.0.0.1:6379/0", "redis://u:p%40@m/15", "redis://[::1]/"]
)
def test_messages_url(folder: Folder, url: str) -> None:
    """All kinds of message stores of this version."""
    assert folder.load(f'[messages]\nurl = "{url}"').messages.url == url


def test_what_is_served(folder: Folder) -> None:
    """A service is there if any listener offers it."""
    config = folder.load('[[listen]]\nservices = []\n[[listen]]\nendpoint = "unix:x"\nservices = ["messages"]')
    assert (config.serves("messages"), config.serves("transfers")) == (True, False)


def test_a_hub_without_transfers_needs_no_mover(folder: Folder) -> None:
    """And is not warned of it."""
    config = folder.load('[[listen]]\nservices = ["messages"]', needed='[archive]\nurl = "file:///srv/archive"\n')
    assert config.warnings() == []


def test_messages_do_no_work(folder: Folder) -> None:
    """They are over with the answer, and nobody's own."""
    told = 'is "messages"; it must be one of transfers, carts, jobs'
    assert folder.problem('[hub]\nworkers = ["messages"]') == f"hub.workers[0]: {told}"
    assert folder.problem('[auth]\nshared = ["messages"]') == f"auth.shared[0]: {told}"


def test_files_read_and_written_have_their_folders(folder: Folder) -> None:
    """Certificates lie beside the configuration, the log below the state folder, and that beside the configuration."""
    (folder.path / "hub.pem").touch()
    (folder.path / "hub.key").touch()
    config = folder.load(
        '[hub]\nstate = "state"\n[log]\ndirectory = "log"\n'
        '[[listen]]\n[listen.tls]\ncertificate = "hub.pem"\nkey = "hub.key"'
    )
    assert config.log.directory == folder.path / "state" / "log"
    assert config.database.url == f"sqlite:///{folder.path}/state/datahub.sqlite"
    assert config.listen[0].tls == TlsSection(folder.path / "hub.pem", folder.path / "hub.key")


def test_certificate_that_is_not_there(folder: Folder) -> None:
    """Each missing file is named in full."""
    problems = folder.problems('[[listen]]\n[listen.tls]\ncertificate = "hub.pem"')
    assert problems == (
        f"listen[0].tls.certificate: there is no file {folder.path}/hub.pem; paths are relative to {folder.path}",
        'listen[0].tls.key: is missing; write it like "hub.key"',
    )


def test_levels_of_dotted_names(folder: Folder) -> None:
    """A namespace may be written with or without quotes."""
    config = folder.load('[log.levels]\nstore = "debug"\ntwisted.web = "warn"\n"pika.x" = "error"')
    assert config.log.levels == {"store": "debug", "twisted.web": "warn", "pika.x": "error"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hub = ", "is not TOML: Invalid value"),
        (b"\xff = 1", "is not UTF-8 text: byte 0 is wrong"),
        (None, "is not there; name another by --config or $DATAHUB_CONFIG"),
    ],
)
def test_file_that_is_no_configuration(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A file that can't be read at all is one error."""
    file = tmp_path / "datahub.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert caught.value.file == file
    assert str(caught.value).startswith(reason)
    assert isinstance(caught.value, StartError)


def test_folder_is_no_configuration(tmp_path: Path) -> None:
    """Nor is a folder one."""
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load(tmp_path, {})


def test_where_the_configuration_is_found() -> None:
    """The option, else the environment, else /etc."""
    environ = {"DATAHUB_CONFIG": "/b.toml"}
    assert find("/a.toml", environ) == Path("/a.toml")
    assert find(None, environ) == Path("/b.toml")
    assert find(None, {"DATAHUB_CONFIG": ""}) == Path("/etc/datahub/datahub.toml")


def test_anonymous_callers_beyond_loopback_are_warned_of(folder: Folder) -> None:
    """Whether the scopes are the listener's own or those of [auth]; its own empty list takes them away."""
    config = folder.load(
        '[auth]\nanonymous = ["read"]\n'
        '[[listen]]\nendpoint = "tcp:1"\n'
        '[[listen]]\nendpoint = "tcp:2:interface=127.0.0.1"\n'
        '[[listen]]\nendpoint = "tcp:3"\nanonymous = ["write"]\n'
        '[[listen]]\nendpoint = "tcp:4"\nanonymous = []\n'
    )
    assert config.warnings() == [
        (
            "listen[0]: callers without credentials may read here, and other machines reach tcp:1;"
            " listen on loopback, or take the scopes away"
        ),
        (
            "listen[2]: callers without credentials may write here, and other machines reach tcp:3;"
            " listen on loopback, or take the scopes away"
        ),
    ]


def test_hub_without_movers_is_warned_of(folder: Folder) -> None:
    """It can be started, but every submission would be refused."""
    (only,) = folder.load("", needed='[archive]\nurl = "file:///srv/archive"\n').warnings()
    assert only.startswith("transfers.movers: is empty")


def test_a_hub_without_transfers_needs_no_archive(folder: Folder) -> None:
    """Neither offered nor worked on, they ask for nothing."""
    alone = '[hub]\nworkers = ["jobs"]\n[[listen]]\nservices = ["jobs"]\n'
    config = folder.load(alone + '[jobs]\nwrapper = ["nice", "-n", "1"]\n[jobs.limits]\nmemory = "1 GiB"', needed="")
    assert (config.archive.url, config.uses("transfers")) == (None, False)
    assert config.jobs.wrapper == ("nice", "-n", "1")
    assert config.jobs.limits.given() == {"processes": 1000, "memory": 2**30}
    assert folder.problems(alone.replace('["jobs"]', '["transfers"]', 1), needed="") == (
        'archive.url: is missing; write it like "file:///srv/archive"',
    )
