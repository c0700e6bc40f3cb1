"""Requests: which are answered at all (the right host, origin and token), reading them, and writing answers."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sttrack_deploy.records import parse_integer
from sttrack_deploy.serve.downloads import result_line
from sttrack_deploy.serve.metrics import Metrics
from sttrack_deploy.serve.settings import Refusal, Settings, TooLarge, TooMany, is_loopback
from sttrack_deploy.serve.track import Event, Track, Waiters
from sttrack_deploy.video.frames import Frame

__all__ = [
    "COOKIE",
    "Guard",
    "asked_after",
    "asked_width",
    "attachment",
    "body_parts",
    "event",
    "event_lines",
    "flag",
    "http_error",
    "json_answer",
    "json_body",
    "newer",
    "refused",
    "stem",
]


COOKIE = "sttrack-token"
COOKIE_SECONDS = 30 * 24 * 3600
OPEN_PATHS = frozenset({"/healthz"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HEADERS = {
    # The page's own files and nothing else; nobody may frame it.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """ASGI middleware around everything.

    - Without a token the ``Host`` must be a loopback name or one of ``Settings.hosts``: a foreign name that
      was pointed at this machine (DNS rebinding) is refused. With a token it may be any, unless
      ``Settings.hosts`` says which.
    - ``Origin`` and ``Sec-Fetch-Site`` must be this site's own: other sites' pages are refused.
    - The token stands in ``Authorization: Bearer``, or in a cookie that the page sets from ``?token=``.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._token = None if settings.token is None else settings.token.encode()
        self._metrics = metrics
        own = LOOPBACK_NAMES if is_loopback(settings.host) else {settings.host.lower()}
        names = {name.lower() for name in settings.hosts}
        self._hosts = None if self._token is not None and not names else names | own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400:
                    self._metrics.refused.labels(str(message["status"])).inc()
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return _answer(421, "this server is not reached by that name; start it with --allow-host NAME")
        if not _same_site(headers, host):
            return _answer(403, "requests from other sites' pages are refused")
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        connection = HTTPConnection(scope)
        if scope["path"] == "/" and "token" in connection.query_params:
            if self._right(connection.query_params["token"]):
                return self._cookie(connection)
            return _answer(401, "wrong token; the server printed the right address when it started")
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            # Whoever shows a token is judged by it, not by an older cookie.
            allowed = self._right(given.strip())
        else:
            allowed = self._right(connection.cookies.get(COOKIE, ""))
        if allowed:
            return None
        refusal = _answer(
            401, "this needs the server's token: Authorization: Bearer …, or open the address it printed"
        )
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal

    def _right(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token)

    def _cookie(self, connection: HTTPConnection) -> Response:
        assert self._token is not None
        answer = RedirectResponse("./", status_code=303)
        answer.set_cookie(
            COOKIE,
            self._token.decode(),
            max_age=COOKIE_SECONDS,
            path=connection.scope.get("root_path", "") + "/",
            secure=connection.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        answer.headers["cache-control"] = "no-store"
        return answer


def _host_name(host: str) -> str:
    """A ``Host`` header without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _same_site(headers: Headers, host: str) -> bool:
    """Whether a request comes from this site's own page, or from no page."""
    site = headers.get("sec-fetch-site")
    # A link from elsewhere may open the page; nothing else.
    opens = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site is not None and site not in ("same-origin", "none") and not opens:
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower() != ""


def _answer(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers={"cache-control": "no-store"})


WAIT_SECONDS = 15.0  # that a snapshot waits for a newer frame
MOST_WIDTH = 4096


async def body_parts(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes.

    Raises:
        Refusal: the client is gone in the middle of it; nobody hears the answer.
    """
    try:
        async for part in request.stream():
            yield part
    except ClientDisconnect as error:
        raise Refusal("the request was cut short") from error


async def json_body(request: Request, most_bytes: int, fields: set[str]) -> dict[str, Any]:
    """A JSON object of known fields; no body is an empty one.

    Raises:
        Refusal: anything else.
    """
    data = bytearray()
    async for part in body_parts(request):
        data += part
        if len(data) > most_bytes:
            raise TooLarge(f"a request has at most {most_bytes} bytes")
    # Another site's form cannot send this type.
    if data and request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refusal("send application/json")
    try:
        body = json.loads(data or b"{}")
        json.dumps(body, ensure_ascii=False).encode()  # half a character can be escaped, but not answered
    except (ValueError, RecursionError) as error:
        raise Refusal("the body is not JSON") from error
    if not isinstance(body, dict):
        raise Refusal("the body is a JSON object")
    unknown = sorted(set(body) - fields)
    if unknown:
        known = ", ".join(sorted(fields)) or "none"
        raise Refusal(f"unknown field {unknown[0][:40]!r}; fields are: {known}")
    return body


def flag(body: dict[str, Any], name: str, default: bool = False) -> bool:
    """A boolean field."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(f"{name} is true or false")
    return value


def asked_width(request: Request) -> int | None:
    """``width``: pixels that a picture is scaled down to."""
    return _parameter(request, "width", 16, MOST_WIDTH)


def asked_after(request: Request) -> int | None:
    """``after``: the frame that the client has."""
    return _parameter(request, "after", -1, 2**53)


def _parameter(request: Request, name: str, least: int, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = parse_integer(text)
    except ValueError:
        value = most + 1
    if not least <= value <= most:
        raise Refusal(f"{name} is a whole number from {least} to {most}")
    return value


def json_answer(value: object, status: int = 200) -> Response:
    """JSON that is never cached."""
    return JSONResponse(value, status_code=status, headers={"cache-control": "no-store"})


async def newer(
    waiters: Waiters, newest: Callable[[], Frame | None], after: int | None, more: Callable[[], bool]
) -> Frame | None:
    """The newest frame, once there is one that is newer than ``after`` or no more will come."""
    for _ in range(1000):
        with waiters.ticket() as ticket:
            frame = newest()
            if frame is not None and (after is None or frame.index != after):
                return frame
            if not more() or not await ticket.wait(WAIT_SECONDS):
                break
    return newest()


def event(kind: str, number: int | None, data: object) -> str:
    """One server-sent event."""
    name = "" if kind == "results" else f"event: {kind}\n"
    return f"{name}{'' if number is None else f'id: {number}{chr(10)}'}data: {json.dumps(data)}\n\n"


def event_lines(events: Sequence[Event]) -> Iterator[str]:
    """Events of a track's log; a result is a line of the JSON lines format."""
    for one in events:
        if one.kind == "results":
            lines = "".join(f"data: {result_line(found)}\n" for found in one.data)
            yield f"id: {one.sequence}\n{lines}\n"
        else:
            yield event(one.kind, one.sequence, one.data)


def attachment(data: bytes, media_type: str, name: str) -> Response:
    """A file to save."""
    disposition = f"attachment; filename*=UTF-8''{quote(name)}"
    headers = {"content-disposition": disposition, "cache-control": "no-store"}
    return Response(data, media_type=media_type, headers=headers)


def stem(track: Track) -> str:
    """What a track's files are named after."""
    title = track.source.title
    if track.source.live:  # an address or "Camera 0": no suffix to take off
        return re.sub(r"[^\w.-]+", "_", title).strip("_.") or "track"
    name = title.rpartition("/")[2]
    return name.rpartition(".")[0] or name or "track"


async def refused(_: Request, error: Exception) -> Response:
    """What a UserError becomes."""
    status = error.status if isinstance(error, Refusal) else 400
    headers = {"cache-control": "no-store"}
    if status == TooMany.status:
        headers["retry-after"] = "5"
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)


async def http_error(_: Request, error: Exception) -> Response:
    """What Starlette raises, as JSON like every other answer."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
