"""The description of the HTTP interface, OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sttrack_deploy.serve.downloads import FORMATS

__all__ = ["describe_api"]

Json = dict[str, Any]

ABOUT = (
    "Track objects in videos, cameras and streams from one box each. Boxes are [x, y, w, h] in pixels of the displayed "
    'frame; frames count from 0, times are seconds. Errors are {"error": …}: 400 for a bad request, 401 without the '
    "token, 403 where the server does not allow it, 404, 409 where the state does not, 413 and 429 over a limit."
)
WHOLE = {"type": "integer", "minimum": 0}
BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
RESULT: Json = {
    "type": "object",
    "required": ["version", "id", "frame", "time", "box", "confidence", "lost"],
    "properties": {
        "version": {"const": 1, "type": "integer"},
        "id": WHOLE,
        "frame": WHOLE,
        "time": {"type": "number"},
        "box": BOX,
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "lost": {"type": "boolean"},
    },
}
SOURCE: Json = {
    "type": "object",
    "required": ["id", "kind", "title", "live"],
    "properties": {
        "id": {"type": "string"},
        "kind": {"enum": ["video", "images", "camera", "stream"]},
        "title": {"type": "string"},
        "live": {"type": "boolean"},
        "width": {"type": ["integer", "null"]},
        "height": {"type": ["integer", "null"]},
        "frames": {"type": ["integer", "null"]},
        "fps": {"type": ["number", "null"]},
    },
}
TARGET: Json = {
    "type": "object",
    "properties": {
        "id": WHOLE,
        "given": {"type": "array", "items": {"type": "object", "properties": {"frame": WHOLE, "box": BOX}}},
        "results": WHOLE,
        "frame": {"type": ["integer", "null"]},
        "box": {"oneOf": [BOX, {"type": "null"}]},
        "confidence": {"type": ["number", "null"]},
        "lost": {"type": ["boolean", "null"]},
    },
}
TRACK: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "source": {"type": "string"},
        "state": {"enum": ["running", "paused", "done", "stopped", "failed", "deleted"]},
        "message": {"type": "string"},
        "frame": {"type": ["integer", "null"]},
        "end": {"type": ["integer", "null"]},
        "keep": {"type": "boolean"},
        "sequence": WHOLE,
        "targets": {"type": "array", "items": {"$ref": "#/components/schemas/Target"}},
    },
}
RESUME = {"type": "boolean", "default": True}
WIDTH = ("width", "pixels to scale the picture down to")
AFTER_FRAME = ("after", "wait for another frame than this one, at most 15 seconds")
TAGS = ("Sources", "Tracks", "Results", "Server")


def describe_api() -> Json:
    """The document; a test keeps it and the routes the same."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "sttrack-serve", "version": "1", "description": ABOUT},
        "tags": [{"name": name} for name in TAGS],
        "security": [{}, {"token": []}],
        "paths": {**_sources(), **_tracks(), **_results(), **_server()},
        "components": {
            "schemas": {"Result": RESULT, "Source": SOURCE, "Target": TARGET, "Track": TRACK},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _sources() -> Json:
    one: Json = {"type": "object", "minProperties": 1, "maxProperties": 1}
    one["properties"] = {"file": {"type": "string"}, "camera": WHOLE, "url": {"type": "string"}}
    held = {"type": "object", "properties": {"frame": WHOLE}}
    return {
        "/api/sources": {
            "get": _call("Sources", "List the sources", answers={"200": _list("Source")}),
            "post": _call(
                "Sources",
                "Add a file below the root, a camera or a stream",
                "One of the three. Files need --root, URLs --allow-url; cameras are open on the loopback address.",
                body=one,
                answers={
                    "201": _json("Source"),
                    "403": "this server does not allow it",
                    "429": "too many sources",
                },
            ),
        },
        "/api/uploads": {
            "post": _call(
                "Sources",
                "Upload a video",
                "The file is the body. It is kept until the source is deleted or the server ends.",
                query=[("name", "the file's name, for its suffix and for people")],
                media="application/octet-stream",
                body={"type": "string", "format": "binary"},
                answers={"201": _json("Source"), "413": "too large", "429": "no room"},
            )
        },
        "/api/sources/{source}": {
            "get": _call("Sources", "Show a source", answers={"200": _json("Source")}),
            "delete": _call("Sources", "Delete a source and its tracks", answers={"204": "deleted"}),
        },
        "/api/sources/{source}/frames/{frame}.jpg": {
            "get": _call(
                "Sources",
                "One frame of a video",
                "Its number and time stand in the headers Sttrack-Frame and Sttrack-Time.",
                query=[WIDTH],
                answers={"200": _jpeg()},
            )
        },
        "/api/sources/{source}/snapshot.jpg": {
            "get": _call(
                "Sources",
                "The newest frame of a live source",
                query=[AFTER_FRAME, WIDTH],
                answers={"200": _jpeg()},
            )
        },
        "/api/sources/{source}/hold": {
            "post": _call(
                "Sources",
                "Keep a frame of a live source to draw a box on",
                "One of the last few frames, or the newest one; the last four that were held are kept.",
                query=[WIDTH],
                body=held,
                answers={"200": _jpeg(), "410": "the frame is not kept any more"},
            )
        },
        "/api/files": {
            "get": _call(
                "Sources",
                "List a folder below the root",
                query=[("path", "the folder, relative to the root")],
                answers={"200": {"description": "its folders and videos"}},
            )
        },
    }


def _tracks() -> Json:
    create: Json = {
        "type": "object",
        "required": ["source", "boxes"],
        "properties": {
            "source": {"type": "string"},
            "boxes": {"type": "array", "items": BOX, "minItems": 1},
            "frame": WHOLE,
            "end": WHOLE,
            "keep": {"type": "boolean"},
            "record": {"type": "boolean"},
        },
    }
    add = {"frame": WHOLE, "box": BOX, "resume": RESUME}
    correct = {"target": WHOLE, "frame": WHOLE, "box": BOX, "resume": RESUME}
    paths: Json = {
        "/api/tracks": {
            "get": _call("Tracks", "List the tracks", answers={"200": {"description": "the tracks"}}),
            "post": _call(
                "Tracks",
                "Track one target or several",
                "frame is where the boxes were drawn (0, or a live source's newest), end where to stop before. A track "
                "that nobody watches is stopped after half a minute, unless keep is true. record writes a live "
                "source's annotated video. All targets of a live source, whoever tracks them, run as one batch.",
                body=create,
                answers={"201": _json("Track"), "429": "too many tracks, targets or streams"},
            ),
        },
        "/api/tracks/{track}": {
            "get": _call("Tracks", "Show a track", answers={"200": _json("Track")}),
            "delete": _call("Tracks", "Stop and delete a track", answers={"204": "deleted"}),
        },
        "/api/tracks/{track}/correct": {
            "post": _call(
                "Tracks",
                "Correct a target's box on a frame",
                "Its results from that frame on are void; it is tracked from there up to where the other targets are.",
                body={"type": "object", "required": ["target", "frame", "box"], "properties": correct},
                answers={"200": _json("Track")},
            )
        },
        "/api/tracks/{track}/targets": {
            "post": _call(
                "Tracks",
                "Add a target",
                body={
                    "type": "object",
                    "required": ["box"],
                    "properties": add,
                },
                answers={"201": _json("Track")},
            )
        },
        "/api/tracks/{track}/targets/{target}": {
            "delete": _call("Tracks", "Remove a target and its results", answers={"200": _json("Track")})
        },
    }
    words = {
        "pause": "Halt",
        "resume": "Go on after a pause or stop",
        "stop": "End; the results stay",
        "restart": "Begin again from the first boxes (not live)",
    }
    for action, text in words.items():
        paths[f"/api/tracks/{{track}}/{action}"] = {
            "post": _call("Tracks", text, answers={"200": _json("Track"), "409": "not in this state"})
        }
    return paths


def _results() -> Json:
    names = ", ".join(FORMATS)
    lines: Json = {"description": "a result a line"}
    lines["content"] = {"application/x-ndjson": {"schema": _ref("Result")}}
    return {
        "/api/tracks/{track}/events": {
            "get": _call(
                "Results",
                "Follow a track: server-sent events",
                "Messages hold one result a line in the JSON lines format, a line for each target of a frame. Events "
                "named state hold the track, rewind the targets whose results from a frame on are void, and gap says "
                "that the client was too slow and must fetch all results again. Ids are the numbers of the events.",
                query=[("after", "the last event that the client has (Last-Event-ID does the same)")],
                answers={
                    "200": {"description": "text/event-stream", "content": {"text/event-stream": {}}},
                    "429": "too many",
                },
            )
        },
        "/api/tracks/{track}/results": {
            "get": _call(
                "Results",
                "All results so far, as JSON lines",
                "The header Sttrack-Sequence is the number to follow the events after.",
                answers={
                    "200": {
                        "description": "a result a line",
                        "content": {"application/x-ndjson": {"schema": _ref("Result")}},
                    }
                },
            )
        },
        "/api/tracks/{track}/snapshot.jpg": {
            "get": _call(
                "Results",
                "The newest frame of a track",
                query=[AFTER_FRAME, WIDTH, ("boxes", "1 draws the results")],
                answers={"200": _jpeg()},
            )
        },
        "/api/tracks/{track}/files/{format}": {
            "get": _call(
                "Results",
                "The results as a file",
                f"Formats: {names}.",
                query=[("target", "whose boxes, for the format that takes one")],
                answers={"200": {"description": "the file"}},
            )
        },
        "/api/tracks/{track}/video": {
            "get": _call(
                "Results",
                "The annotated video",
                "Writing begins with the first call. Ask again until it is there.",
                answers={"200": {"description": "the MP4 file"}, "202": 'being written; {"progress": 0…1}'},
            )
        },
    }


def _server() -> Json:
    return {
        "/api/info": {
            "get": _call("Server", "What the server allows", answers={"200": {"description": "an object"}})
        },
        "/healthz": {
            "get": _call("Server", "Is it up? Needs no token", answers={"200": {"description": "it is"}})
        },
        "/metrics": {
            "get": _call(
                "Server", "Counters and latencies for Prometheus", answers={"200": {"description": "text"}}
            )
        },
        "/openapi.json": {
            "get": _call("Server", "This document", answers={"200": {"description": "OpenAPI 3.1"}})
        },
    }


def _call(
    tag: str,
    summary: str,
    description: str | None = None,
    *,
    query: list[tuple[str, str]] | None = None,
    body: Json | None = None,
    media: str = "application/json",
    answers: Mapping[str, Json | str],
) -> Json:
    call: Json = {"tags": [tag], "summary": summary}
    if description is not None:
        call["description"] = description
    if query:
        call["parameters"] = [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in query
        ]
    if body is not None:
        call["requestBody"] = {"content": {media: {"schema": body}}}
    call["responses"] = {
        status: {"description": answer} if isinstance(answer, str) else answer
        for status, answer in answers.items()
    }
    return call


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> Json:
    return {"description": f"the {name.lower()}", "content": {"application/json": {"schema": _ref(name)}}}


def _list(name: str) -> Json:
    schema = {"type": "array", "items": _ref(name)}
    return {"description": f"the {name.lower()}s", "content": {"application/json": {"schema": schema}}}


def _jpeg() -> Json:
    return {"description": "the picture", "content": {"image/jpeg": {}}}
