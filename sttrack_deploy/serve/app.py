"""The HTTP interface; ``openapi.py`` describes it, ``security.py`` stands before it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sttrack_deploy.errors import UserError
from sttrack_deploy.serve.downloads import FORMATS, annotated, result_line, write_format
from sttrack_deploy.serve.metrics import CONTENT_TYPE
from sttrack_deploy.serve.openapi import describe_api
from sttrack_deploy.serve.pictures import Pictures
from sttrack_deploy.serve.requests import (
    Guard,
    asked_after,
    asked_width,
    attachment,
    body_parts,
    event,
    event_lines,
    flag,
    http_error,
    json_answer,
    json_body,
    newer,
    refused,
    stem,
)
from sttrack_deploy.serve.service import Service
from sttrack_deploy.serve.settings import Conflict, NotFound, Refusal, TooMany, whole
from sttrack_deploy.serve.track import Track
from sttrack_deploy.video.frames import Frame

__all__ = ["make_app"]

Handler = Callable[[Request], Awaitable[Response]]
PAGE = Path(__file__).parent / "page"
TIDY_SECONDS = 1.0
EVENT_EVERY = 0.05  # seconds: what is found in between goes out together
HEARTBEAT_SECONDS = 10.0


def make_app(service: Service) -> Starlette:
    """The application; ``service`` is closed with it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_tidy(service))
        try:
            yield
        finally:
            task.cancel()
            await run_in_threadpool(service.close)

    api = _Api(service)
    routes = [
        Route("/", _page("index.html")),
        Route("/docs", _page("docs.html")),
        Route("/openapi.json", api.openapi),
        Route("/healthz", api.health),
        Route("/metrics", api.metrics),
        Route("/api/info", api.info),
        Route("/api/files", api.files),
        Route("/api/sources", api.sources),
        Route("/api/sources", api.add_source, methods=["POST"]),
        Route("/api/uploads", api.upload, methods=["POST"]),
        Route("/api/sources/{source}", api.source),
        Route("/api/sources/{source}", api.remove_source, methods=["DELETE"]),
        Route("/api/sources/{source}/frames/{frame:int}.jpg", api.frame),
        Route("/api/sources/{source}/snapshot.jpg", api.live_snapshot),
        Route("/api/sources/{source}/hold", api.hold, methods=["POST"]),
        Route("/api/tracks", api.tracks),
        Route("/api/tracks", api.create, methods=["POST"]),
        Route("/api/tracks/{track}", api.track),
        Route("/api/tracks/{track}", api.delete, methods=["DELETE"]),
        Route("/api/tracks/{track}/targets", api.add_target, methods=["POST"]),
        Route("/api/tracks/{track}/targets/{target:int}", api.remove_target, methods=["DELETE"]),
        Route("/api/tracks/{track}/events", api.events),
        Route("/api/tracks/{track}/results", api.results),
        Route("/api/tracks/{track}/snapshot.jpg", api.snapshot),
        Route("/api/tracks/{track}/files/{format}", api.download),
        Route("/api/tracks/{track}/video", api.video),
        Route("/api/tracks/{track}/{action}", api.act, methods=["POST"]),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, settings=service.settings, metrics=service.metrics)],
        exception_handlers={UserError: refused, HTTPException: http_error},
        lifespan=lifespan,
    )


async def _tidy(service: Service) -> None:
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        await run_in_threadpool(service.tidy)


def _page(name: str) -> Handler:
    async def page(_: Request) -> Response:
        return FileResponse(PAGE / name, headers={"cache-control": "no-cache"})

    return page


class _Api:
    """The handlers; each does its blocking work in a thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._most = service.settings.limits.body_bytes
        self._pictures = Pictures()

    # --- about the server ----------------------------------------------------------------------------

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(describe_api())

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})

    async def metrics(self, _: Request) -> Response:
        page = await run_in_threadpool(self._service.metrics.page)
        return Response(page, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})

    async def info(self, _: Request) -> Response:
        return json_answer(self._service.describe())

    # --- sources -------------------------------------------------------------------------------------

    async def files(self, request: Request) -> Response:
        path = request.query_params.get("path", "")
        return json_answer(await run_in_threadpool(self._service.sources.listing, path))

    async def sources(self, _: Request) -> Response:
        return json_answer([source.describe() for source in self._service.sources])

    async def source(self, request: Request) -> Response:
        return json_answer(self._service.sources.get(request.path_params["source"]).describe())

    async def add_source(self, request: Request) -> Response:
        body = await json_body(request, self._most, {"file", "camera", "url"})
        store = self._service.sources
        adders = {"file": store.add_file, "camera": store.add_camera, "url": store.add_url}
        if len(body) != 1:
            raise Refusal('name one source: {"file": …}, {"camera": …} or {"url": …}')
        ((kind, value),) = body.items()
        return json_answer((await run_in_threadpool(adders[kind], value)).describe(), 201)

    async def upload(self, request: Request) -> Response:
        name = request.query_params.get("name", "")
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() and len(length) < 20 else None
        source = await self._service.sources.upload(name, body_parts(request), announced)
        return json_answer(source.describe(), 201)

    async def remove_source(self, request: Request) -> Response:
        source = self._service.sources.get(request.path_params["source"])
        await run_in_threadpool(self._service.remove_source, source)
        return Response(status_code=204)

    async def frame(self, request: Request) -> Response:
        source = self._service.sources.get(request.path_params["source"])
        if source.reader is None:
            raise Conflict("a live source has no frames by number; ask for its snapshot")
        index, width = request.path_params["frame"], asked_width(request)
        frame = await run_in_threadpool(source.reader.read, index)
        if frame is None:
            raise NotFound(f"there is no frame {index}")
        return await self._pictures.answer(frame, width, source.name, cache=True)

    async def live_snapshot(self, request: Request) -> Response:
        source = self._service.sources.get(request.path_params["source"])
        reading = await run_in_threadpool(self._service.live, source)
        after, width = asked_after(request), asked_width(request)
        async with self._viewer():
            frame = await newer(
                reading.waiters,
                lambda: reading.newest,
                after,
                lambda: reading.busy and not self._service.ending,
            )
        if frame is None:
            raise Conflict(reading.message or "the source sends nothing")
        return await self._pictures.answer(frame, width, source.name)

    async def hold(self, request: Request) -> Response:
        source = self._service.sources.get(request.path_params["source"])
        body = await json_body(request, self._most, {"frame"})
        reading = await run_in_threadpool(self._service.live, source)
        frame = reading.hold(None if body.get("frame") is None else whole(body["frame"], "frame"))
        return await self._pictures.answer(frame, asked_width(request), source.name)

    # --- tracks --------------------------------------------------------------------------------------

    async def tracks(self, _: Request) -> Response:
        return json_answer([track.describe() for track in self._service.tracks()])

    async def create(self, request: Request) -> Response:
        body = await json_body(request, self._most, {"source", "boxes", "frame", "end", "keep", "record"})
        source = self._service.sources.get(body.get("source"))
        keep, record = flag(body, "keep"), flag(body, "record")

        def create() -> Track:
            boxes = body.get("boxes")
            return self._service.create(
                source,
                boxes if isinstance(boxes, list) else [],
                body.get("frame"),
                end=body.get("end"),
                keep=keep,
                record=record,
            )

        return json_answer((await run_in_threadpool(create)).describe(), 201)

    async def track(self, request: Request) -> Response:
        return json_answer(self._track(request).describe())

    async def delete(self, request: Request) -> Response:
        await run_in_threadpool(self._service.delete, self._track(request))
        return Response(status_code=204)

    async def add_target(self, request: Request) -> Response:
        track = self._track(request)
        body = await json_body(request, self._most, {"frame", "box", "resume"})
        resume = flag(body, "resume", True)
        await run_in_threadpool(
            lambda: self._service.add_target(track, body.get("frame"), body.get("box"), resume=resume)
        )
        return json_answer(track.describe(), 201)

    async def remove_target(self, request: Request) -> Response:
        track = self._track(request)
        await run_in_threadpool(self._service.remove_target, track, request.path_params["target"])
        return json_answer(track.describe())

    async def act(self, request: Request) -> Response:
        """``pause``, ``resume``, ``stop``, ``restart`` or ``correct``."""
        track, service = self._track(request), self._service
        action = request.path_params["action"]
        if action == "correct":
            body = await json_body(request, self._most, {"target", "frame", "box", "resume"})
            resume = flag(body, "resume", True)
            arguments = (track, body.get("target"), body.get("frame"), body.get("box"))
            await run_in_threadpool(lambda: service.correct(*arguments, resume=resume))
            return json_answer(track.describe())
        actions = {
            "pause": service.pause,
            "resume": service.resume,
            "stop": service.stop,
            "restart": service.restart,
        }
        if action not in actions:
            raise NotFound(f"a track can be told to {', '.join([*actions, 'correct'])}")
        await json_body(request, self._most, set())
        await run_in_threadpool(actions[action], track)
        return json_answer(track.describe())

    # --- results -------------------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        track = self._track(request)
        last = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        if not last.isdecimal() or len(last) > 15:
            raise Refusal("after is the number of an event")
        self._check_viewers()

        async def stream() -> AsyncIterator[str]:
            sequence = int(last)
            # Counted here: what is never begun is never ended either.
            track.viewers += 1
            self._service.viewers += 1
            try:
                yield "retry: 1000\n\n"
                first = True
                while True:
                    with track.waiters.ticket() as ticket:
                        if self._service.ending:
                            return
                        new = track.events(sequence)
                        if new == [] and not first and not await ticket.wait(HEARTBEAT_SECONDS):
                            yield ": still here\n\n"
                    if new is None:
                        sequence = track.sequence
                        yield event("gap", sequence, {"sequence": sequence})
                    elif new:
                        sequence = new[-1].sequence
                        yield "".join(event_lines(new))
                    if first:  # after what came before, so that it is the last word
                        yield event("state", None, track.describe())
                        first = False
                    if new:
                        if new[-1].kind == "state" and new[-1].data["state"] == "deleted":
                            return
                        await asyncio.sleep(EVENT_EVERY)
            finally:
                track.viewers -= 1
                track.touched = time.monotonic()
                self._service.viewers -= 1

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    async def results(self, request: Request) -> Response:
        track = self._track(request)
        sequence = track.sequence
        text = await run_in_threadpool(
            lambda: "".join(f"{result_line(found)}\n" for found in track.results())
        )
        headers = {"cache-control": "no-store", "sttrack-sequence": str(sequence)}
        return Response(text, media_type="application/x-ndjson", headers=headers)

    async def snapshot(self, request: Request) -> Response:
        """The newest frame of a track; with ``after`` it waits for a newer one than that."""
        track = self._track(request)
        after, width = asked_after(request), asked_width(request)
        reading = self._service.reading(track)
        async with self._viewer():
            frame = await newer(
                reading.waiters,
                lambda: reading.newest,
                after,
                lambda: track.active and not self._service.ending,
            )
        track.touched = time.monotonic()
        if frame is None:
            raise Conflict("the track has no frame yet" + (f": {track.message}" if track.message else ""))
        drawn = request.query_params.get("boxes") == "1"
        if drawn:
            with track.lock:
                found = [f for t in track.targets.values() if (f := t.trace.at(frame.index)) is not None]
            image = await run_in_threadpool(annotated, frame.image, found, len(track.targets))
            frame = Frame(frame.index, frame.time, image)
        return await self._pictures.answer(frame, width, None if drawn else track.source.name)

    async def download(self, request: Request) -> Response:
        track = self._track(request)
        form = FORMATS.get(request.path_params["format"])
        if form is None:
            raise NotFound(f"formats are {', '.join(FORMATS)}")
        target = request.query_params.get("target")
        if target is not None:
            target_number = track.target(int(target) if target.isdecimal() and len(target) < 9 else 0).number
        else:
            target_number = min(track.targets)
        data = await run_in_threadpool(write_format, form, track, target_number)
        # Boxes are of one target: two of a track are two files.
        which = f"_{target_number}" if form.name == "boxes" and len(track.targets) > 1 else ""
        return attachment(data, form.media_type, f"{stem(track)}{which}{form.suffix}")

    async def video(self, request: Request) -> Response:
        """202 with the progress until the file is there."""
        track = self._track(request)
        if track.recorder is not None:
            path = getattr(track.recorder, "path", None)
            if path is None:
                raise Conflict("the video is still being written; stop the track first")
            return FileResponse(path, filename=f"{stem(track)}_tracked{path.suffix}")
        renderer = await run_in_threadpool(self._service.renderer, track)
        if renderer.path is not None:
            name = f"{stem(track)}_tracked{renderer.path.suffix}"
            return FileResponse(renderer.path, filename=name, headers={"cache-control": "no-store"})
        if renderer.error:
            renderer.outdated = True
            raise Conflict(f"the video could not be written: {renderer.error}")
        return json_answer({"progress": round(renderer.progress, 3)}, 202)

    # --- helpers -------------------------------------------------------------------------------------

    def _track(self, request: Request) -> Track:
        return self._service.track(request.path_params["track"])

    def _check_viewers(self) -> None:
        limit = self._service.settings.limits.viewers
        if self._service.viewers >= limit:
            raise TooMany(f"{limit} clients follow tracks already, which is the server's limit")

    @contextlib.asynccontextmanager
    async def _viewer(self) -> AsyncIterator[None]:
        self._check_viewers()
        self._service.viewers += 1
        try:
            yield
        finally:
            self._service.viewers -= 1
