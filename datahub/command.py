"""The host's ``datahub`` command: serve, check-config, token."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import click
from twisted.application.service import ServiceMaker
from twisted.python.usage import UsageError
from twisted.scripts import twistd

from datahub import __version__
from datahub.auth.tokens import digest, new_token
from datahub.config import ConfigError, find, load
from datahub.tap import describe
from datahub.values import TOKEN_NAME, check_scope

__all__ = ["main"]

_PLUGIN = ServiceMaker("datahub", "datahub.tap", "Delivers data from an archive.", "datahub")
_config = click.option(
    "--config",
    "-c",
    metavar="FILE",
    help="The configuration; default: $DATAHUB_CONFIG, else /etc/datahub/datahub.toml.",
)


class _ServerOptions(twistd.ServerOptions):  # type: ignore[name-defined, misc]  # its definition is chosen by platform
    """twistd's options with our plugin as the only one: searching for plugins fails in some kinds of install."""

    @property
    def subCommands(self) -> Iterator[tuple[str, None, Any, str]]:
        """Name the plugin."""
        self.loadedPlugins = {_PLUGIN.tapname: _PLUGIN}
        yield _PLUGIN.tapname, None, _PLUGIN.options, _PLUGIN.description


@click.group()
@click.version_option(__version__, prog_name="datahub", message="%(prog)s %(version)s")
def main() -> None:
    """Get data out of an archive and to the people who need it."""


@main.command()
@_config
@click.option("--nodaemon/--daemon", "-n", "nodaemon", default=True, help="Stay in the foreground (default), or not.")
@click.argument("twistd_options", nargs=-1, type=click.UNPROCESSED)
def serve(config: str | None, nodaemon: bool, twistd_options: tuple[str, ...]) -> None:
    """Run the hub; TWISTD_OPTIONS, after a "--", go to twistd as they are."""
    options = _ServerOptions()
    # A foreground process needs no pidfile: whoever started it knows.
    own = ["--nodaemon", "--pidfile="] if nodaemon else []
    try:
        options.parseOptions([*own, *twistd_options, "datahub", *(["--config", config] if config else [])])
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    twistd.runApp(options)


@main.command("check-config")
@_config
def check_config(config: str | None) -> None:
    """Say whether the configuration is fine, or all that is wrong with it."""
    path = find(config, os.environ)
    try:
        loaded = load(path, os.environ)
    except ConfigError as error:
        click.echo(describe(error), err=True)
        raise click.exceptions.Exit(1) from None
    for warning in loaded.warnings():
        click.echo(f"warning: {warning}")
    click.echo(f"{path} is fine")


@main.command()
@click.argument("name", default="operator")
@click.option("--scope", "scopes", multiple=True, help="What the caller may do; again for more. Default: read, write.")
def token(name: str, scopes: tuple[str, ...]) -> None:
    """Make a token for the caller NAME and the section of the configuration that lets it in."""
    _check(name, scopes)
    made = new_token()
    table = name if "." not in name and "@" not in name and "+" not in name else json.dumps(name)
    click.echo(f"The token of {name}, shown this once; it goes into the header Authorization: Bearer …\n\n    {made}\n")
    click.echo("Its section for datahub.toml, which keeps the token's hash only:\n")
    click.echo(f"[auth.tokens.{table}]")
    click.echo(f'hash = "sha256:{digest(made)}"')
    click.echo(f"scopes = {json.dumps(scopes or ('read', 'write'))}")


def _check(name: str, scopes: tuple[str, ...]) -> None:
    if not TOKEN_NAME.fullmatch(name) or name == "me":
        raise click.BadParameter(f'"{name}" must be letters, digits, . _ @ + -, not "me"', param_hint="NAME")
    for scope in scopes:
        try:
            check_scope(scope)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--scope") from None
