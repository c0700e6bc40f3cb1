"""``sttrack-serve``: a page to draw the box on, and the same over HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import socket
import webbrowser
from pathlib import Path
from typing import Any

import click

from sttrack_deploy.bundle import open_bundle
from sttrack_deploy.errors import MissingDependencyError, UsageError, UserError
from sttrack_deploy.policy import PolicyChanges
from sttrack_deploy.records import show
from sttrack_deploy.serve.settings import Limits, Settings, is_loopback
from sttrack_deploy.terminal.help import GroupedCommand, heading
from sttrack_deploy.terminal.options import bundle_option, engine_options, tracking_options
from sttrack_deploy.terminal.program import command, say
from sttrack_deploy.terminal.types import Integer, NamedPath, Number

__all__ = ["main"]

NEEDED = ("starlette", "uvicorn", "prometheus_client")
MIB = 2**20
LIMITS = Limits()


@click.command(cls=GroupedCommand)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@heading("Address")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any but the loopback one makes a token.",
)
@click.option("--port", type=Integer(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option(
    "--token",
    envvar="STTRACK_SERVE_TOKEN",
    help="Secret that requests must show.  [default: a new one where --host is given]",
)
@heading("Behind a proxy", more=True)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Further name that the server is reached by, behind a proxy.",
)
@click.option("--behind-proxy", is_flag=True, help="Believe X-Forwarded-Proto of a proxy on this machine.")
@heading("What clients may open")
@click.option(
    "--root",
    type=NamedPath(exists=True, file_okay=False),
    help="Folder below which clients may open videos.  [default: none]",
)
@click.option("--allow-url", is_flag=True, help="Clients may open streams by URL.")
@click.option(
    "--allow-camera/--no-camera",
    default=None,
    help="Clients may open cameras.  [default: on the loopback address only]",
)
@heading("Limits", more=True)
@click.option(
    "--max-upload",
    type=Integer(1, 1_000_000),
    default=LIMITS.upload_bytes // MIB,
    show_default=True,
    help="MiB of one upload.",
)
@click.option(
    "--max-tracks",
    type=Integer(1, 1_000_000),
    default=LIMITS.tracks,
    show_default=True,
    help="Tracks that exist at once.",
)
@click.option(
    "--max-streams",
    type=Integer(1, 1_000_000),
    default=LIMITS.streams,
    show_default=True,
    help="Sources read at once.",
)
@click.option(
    "--max-viewers",
    type=Integer(1, 1_000_000),
    default=LIMITS.viewers,
    show_default=True,
    help="Clients that follow tracks at once; a further one is answered with status 429.",
)
@click.option(
    "--idle",
    type=Number(1, 10**9),
    default=LIMITS.idle_seconds,
    show_default=True,
    help="Seconds after which a track nobody watches stops.",
)
@heading("Address")
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@bundle_option
@engine_options
@tracking_options
@command
def main(
    sources: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    hosts: tuple[str, ...],
    behind_proxy: bool,
    root: Path | None,
    allow_url: bool,
    allow_camera: bool | None,
    max_upload: int,
    max_tracks: int,
    max_streams: int,
    max_viewers: int,
    idle: float,
    open_page: bool,
    bundle: Path | None,
    engine: str,
    threads: int | None,
    changes: PolicyChanges,
) -> None:
    """Serve a page for tracking in videos, cameras and streams; draw a box, press Track.

    SOURCE is a video, a folder of images, a camera's number or a stream's URL; more can be chosen or
    uploaded on the page. The API is described at /docs. Ctrl-C ends it and deletes the uploads.

    \b
    sttrack-serve street.mp4
    sttrack-serve --root /data/videos --host 0.0.0.0
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "sttrack-serve", 'pip install "sttrack-deploy[serve]"')

    local = is_loopback(host)
    if token is not None and (
        len(token) < 16 or not token.isascii() or not token.isprintable() or ";" in token
    ):
        raise UsageError("--token is at least 16 printable ASCII characters without ;")
    settings = Settings(
        host=host,
        token=token or (None if local else secrets.token_urlsafe(24)),
        hosts=hosts,
        root=None if root is None else root.resolve(),
        allow_url=allow_url,
        allow_camera=local if allow_camera is None else allow_camera,
        limits=Limits(
            tracks=max_tracks,
            streams=max_streams,
            viewers=max_viewers,
            upload_bytes=max_upload * MIB,
            idle_seconds=idle,
        ),
    )
    _serve(settings, sources, port, behind_proxy, open_page, (bundle, engine, threads, changes))


def _serve(
    settings: Any, sources: tuple[str, ...], port: int, behind_proxy: bool, open_page: bool, choice: Any
) -> None:
    from sttrack_deploy.engines.registry import load_engine
    from sttrack_deploy.serve.server import Server
    from sttrack_deploy.serve.service import Service

    path, engine, threads, changes = choice
    bundle = open_bundle(path)
    policy = bundle.manifest.tracking.override(changes)
    listener = _listen(settings.host, port)
    service = Service(settings, bundle, load_engine(engine, bundle, threads), policy)
    try:
        for source in sources:
            service.sources.add_given(source)
    except BaseException:
        service.close()
        raise
    address = _address(settings, listener.getsockname()[1])
    say(f"serving {bundle.manifest.name} with {engine}; the page: {address}")
    if settings.token is not None:
        say(
            "that address holds the token: whoever has it can use this server; API clients send it as a Bearer token"
        )
    say("end with Ctrl-C; uploads are deleted then")
    if open_page:
        webbrowser.open(address)
    # Ctrl-C and SIGTERM are how a server ends: uvicorn closes it in order, then passes the signal on.
    with contextlib.suppress(KeyboardInterrupt):
        Server(service, behind_proxy=behind_proxy).run(sockets=[listener])
    say("stopped; uploads are deleted")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except UnicodeError as error:  # no name that the network knows can be written so
        raise UsageError(f"--host is an address or a name, not {show(host)}") from error
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port"
        ) from error
    return listener


def _address(settings: Any, port: int) -> str:
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}/" + ("" if settings.token is None else f"?token={settings.token}")
