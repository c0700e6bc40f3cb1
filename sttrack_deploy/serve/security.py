"""Which requests are answered at all: the right host, the right origin, the right token."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sttrack_deploy.serve.metrics import Metrics
from sttrack_deploy.serve.settings import Settings, is_loopback

__all__ = ["COOKIE", "Guard"]

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
