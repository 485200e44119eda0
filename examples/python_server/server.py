"""A transfer server: FastAPI in front of `Pipeline`, with dynamic batching and back-pressure.

    uvicorn --app-dir examples/python_server --factory server:create_app --workers 2

Settings are environment variables: see `Settings`.
"""

import asyncio
import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import cv2
import msgspec
import prometheus_client
import psutil
from batcher import Batcher
from fastapi import APIRouter, FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import multiprocess
from pydantic import BaseModel
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from garment_transfer import (
    Code,
    GarmentTransferError,
    InputError,
    Person,
    Pipeline,
    __version__,
    sample_bundle,
)
from garment_transfer.bundle import LABEL_SETS, Bundle, BundleError
from garment_transfer.runtime import check_megapixels, read_request, warm_up
from garment_transfer.runtime.backends import default_threads
from garment_transfer.runtime.photos import ENCODINGS, png_bytes

_log = logging.getLogger(__name__)

_REQUESTS = prometheus_client.Counter(
    "garment_transfer_requests", "Requests for a transfer by HTTP status", ["status"]
)
_SECONDS = prometheus_client.Histogram(
    "garment_transfer_request_seconds", "Time of transfers that were answered with a picture"
)
_STAGES = prometheus_client.Histogram(
    "garment_transfer_stage_seconds",
    "Time of each stage, of the whole batch but for compose",
    ["stage"],
)
_BATCHES = prometheus_client.Histogram(
    "garment_transfer_batch_size", "Pairs in a batch", buckets=(1, 2, 4, 8, 16, 32)
)
_PENDING = prometheus_client.Gauge(
    "garment_transfer_pending", "Requests that hold a slot", multiprocess_mode="livesum"
)

# nginx's number for a client that left: nobody receives it, the metrics count it.
_CLIENT_LEFT: Final = 499

# What is refused before the package sees it: `code` of the answer, and why. What the package
# refuses has the codes of its errors.
_REFUSALS: Final = {
    400: ("body_invalid", "not multipart, or more than 6 files and 4 fields"),
    408: ("upload_timeout", "the request did not arrive in time"),
    413: ("too_large", "the request, or an image in it, is too large"),
    422: ("fields_invalid", "a field is missing; other codes: a photo or a map cannot be used"),
    429: ("busy", "all slots are taken; `Retry-After` says when to send it again"),
    500: ("internal_error", "the server failed, and its log says why; other codes: a graph failed"),
}
_NOT_HERE: Final = {404: "not_found", 405: "method_not_allowed", 503: "not_ready"}

# Threads that decode and encode pictures; each keeps memory of its own.
_CODECS: Final = 2

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


_Count = Annotated[int, msgspec.Meta(ge=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, rename=lambda name: f"GARMENT_TRANSFER_{name.upper()}"):
    """Settings of each worker; `GARMENT_TRANSFER_MAX_BATCH=4` sets `max_batch`, and so on."""

    bundle: str = ""  #: folder; empty for the one in the package
    backend: str = "onnxruntime"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 1  #: of each graph; 0 for a backend without
    max_batch: _Count = 4  #: pairs in a batch
    max_wait_ms: Annotated[float, msgspec.Meta(ge=0)] = 5.0  #: how long a batch waits for others
    max_pending: _Count = 32  #: requests at a time; one more is answered 429
    max_uploads: _Count = 256  #: bodies that arrive at a time; one more ends the oldest with 408
    max_body_mb: _Positive = 32.0  #: megabytes of a request; more is answered 413
    max_megapixels: _Positive = 4.0  #: of the photo and of each map; more is answered 413
    upload_seconds: _Positive = 30.0  #: for the body to arrive; longer is answered 408

    @classmethod
    def from_environment(cls) -> "Settings":
        """The environment's settings; msgspec.ValidationError names one that it cannot have."""
        return msgspec.convert(dict(os.environ), cls, strict=False)


class Refusal(BaseModel):
    """The answer to a request that gets no picture."""

    detail: str  #: what is wrong, what was expected and what to do
    code: str  #: which way to fail it is; values are stable


class _TransferRoute(APIRoute):
    """A route that counts its answers, and gives refusals their shape."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def counted(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = await _admit(request, handle)
            except (GarmentTransferError, HTTPException, RequestValidationError) as error:
                response = _refusal(error)
            except Exception:  # `_on_error` answers it, and uvicorn logs it
                _REQUESTS.labels(500).inc()
                raise
            if response.status_code == 200:
                _SECONDS.observe(time.perf_counter() - started)
            _REQUESTS.labels(response.status_code).inc()
            return response

        return counted


def _refusal(error: Exception) -> Response:
    """The answer to a request that gets no picture: JSON of `Refusal`."""
    headers: Mapping[str, str] | None = None
    if isinstance(error, HTTPException):
        status, detail, headers = error.status_code, error.detail, error.headers
        code = _NOT_HERE.get(status) or _REFUSALS.get(status, ("http_error",))[0]
    elif isinstance(error, RequestValidationError):
        status, code = 422, _REFUSALS[422][0]
        faults = ((each["loc"][-1], each["type"], each["msg"]) for each in error.errors())
        detail = "; ".join(
            f"{field} is missing" if kind == "missing" else f"{field}: {message}"
            for field, kind, message in faults
        )
    elif isinstance(error, InputError):
        status, code, detail = 422, error.code, str(error)
        if code == Code.PERSON_INCOMPLETE:
            code = _REFUSALS[422][0]
    elif isinstance(error, GarmentTransferError):
        _log.error("a transfer failed", exc_info=error)
        status, code, detail = 500, error.code, str(error)
    else:  # the log has its traceback
        status, code, detail = 500, _REFUSALS[500][0], _REFUSALS[500][1].partition(";")[0]
    return JSONResponse({"detail": detail, "code": code}, status, headers)


def _paths(request: Request) -> dict[str, Any]:
    """The paths of the OpenAPI document and their methods."""
    paths: dict[str, Any] = request.app.openapi()["paths"]
    return paths


async def _on_error(request: Request, error: Exception) -> Response:
    """Answers what no route of a transfer has answered, and OPTIONS."""
    if isinstance(error, HTTPException) and error.status_code == 404:
        error = HTTPException(404, f"there is nothing here; there is {', '.join(_paths(request))}")
    if isinstance(error, HTTPException) and error.status_code == 405:
        methods = {method.upper() for method in _paths(request).get(request.url.path, ["get"])}
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        allow = {"Allow": f"{allowed}, OPTIONS"}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        error = HTTPException(405, f"{request.method} is not allowed here; {allowed} is", allow)
    return _refusal(error)


class _Head:
    """Answers HEAD as GET; uvicorn leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


async def _admit(request: Request, handle: _Handler) -> Response:
    """Answers a request whose body has arrived while a slot is held for it."""
    state = request.app.state
    if not request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        raise HTTPException(400, "the body is not multipart/form-data; send the files as a form")
    upload = _limited(request)
    try:
        full = state.pending >= state.settings.max_pending
        await _receive(upload, parse=not full)
        if full or state.pending >= state.settings.max_pending:
            seconds = math.ceil(state.pending * state.batcher.seconds_per_pair)
            raise HTTPException(
                429,
                f"all {state.settings.max_pending} slots are taken; send it again after the "
                "seconds in Retry-After",
                headers={"Retry-After": str(max(1, seconds))},
            )
        state.pending += 1
        try:
            with _PENDING.track_inprogress():
                return await _while_connected(request, handle(upload))
        finally:
            state.pending -= 1
    except ClientDisconnect:
        return Response(status_code=_CLIENT_LEFT)
    finally:
        await upload.close()


async def _receive(upload: Request, parse: bool) -> None:
    """Waits for a request's body, as a form or to be thrown away; HTTPException 408 if too long.

    A body that arrives holds no slot, so slow clients keep nobody from one. Of more than
    `max_uploads` the oldest makes way.
    """
    settings: Settings = upload.app.state.settings
    uploads: dict[asyncio.Timeout, None] = upload.app.state.uploads
    try:
        async with asyncio.timeout(settings.upload_seconds) as timer:
            uploads[timer] = None
            if len(uploads) > settings.max_uploads:
                oldest = next(iter(uploads))
                del uploads[oldest]
                oldest.reschedule(0)
            try:
                if parse:
                    await upload.form(max_files=6, max_fields=4)
                else:  # many clients look at the answer only after they have sent everything
                    async for _ in upload.stream():
                        pass
            finally:
                uploads.pop(timer, None)
    except TimeoutError:
        why = f"the request did not arrive within {settings.upload_seconds:g} seconds, or made way"
        raise HTTPException(408, f"{why} for others; send smaller files") from None


def _limited(request: Request) -> Request:
    """The request with a body that ends in 413 once it is too large."""
    most: float = request.app.state.settings.max_body_mb
    size = 0

    async def receive() -> Message:
        nonlocal size
        # before anything is read where the length is told
        if int(request.headers.get("Content-Length", 0)) <= most * 1e6:
            message = await request.receive()
            size += len(message.get("body", b""))
            if size <= most * 1e6:
                return message
        raise HTTPException(413, f"the request has more than {most:g} MB; send smaller files")

    return Request(request.scope, receive)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response, or the end of the work as soon as the client is gone."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else Response(status_code=_CLIENT_LEFT)
    finally:
        answer.cancel()
        leaving.cancel()
        # A thread that reads the upload cannot be cancelled, and files are closed after this.
        await asyncio.wait({answer, leaving})


_LABEL_SET = Form(
    description="Label set of the parse map.", json_schema_extra={"enum": sorted(LABEL_SETS)}
)
_ENCODING = Form(
    description="Encoding of the DensePose file.", json_schema_extra={"enum": sorted(ENCODINGS)}
)
_transfers = APIRouter(route_class=_TransferRoute)
_plain = APIRouter()


@_transfers.post(
    "/transfer",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": "The person in the other garment."},
        **{
            status: {"model": Refusal, "description": f"`{code}`: {why}."}
            for status, (code, why) in _REFUSALS.items()
        },
    },
)
async def transfer(
    request: Request,
    person_image: UploadFile,
    garment_image: UploadFile,
    person_parsing: UploadFile | None = None,
    person_densepose: UploadFile | None = None,
    person_label_set: Annotated[str | None, _LABEL_SET] = None,
    person_encoding: Annotated[str | None, _ENCODING] = None,
    garment_parsing: UploadFile | None = None,
    garment_densepose: UploadFile | None = None,
    garment_label_set: Annotated[str | None, _LABEL_SET] = None,
    garment_encoding: Annotated[str | None, _ENCODING] = None,
) -> Response:
    """Put the upper garment of the second person on the first.

    Each person is a photo, alone or with its parse map and its DensePose, as files, whose label set
    and encoding are then named. The answer is a PNG of the first photo's size; its header
    `Server-Timing` has the milliseconds of each stage.
    """
    state = request.app.state
    in_thread = functools.partial(anyio.to_thread.run_sync, limiter=state.codecs)
    form = await request.form()  # by the names that the parameters say
    person, owner = await in_thread(_read, state.pipeline, form, state.settings.max_megapixels)
    result = await state.batcher.transfer(person, owner)
    for stage, milliseconds in result.timings.items():
        _STAGES.labels(stage).observe(milliseconds / 1000)
    timing = ", ".join(f"{stage};dur={ms:.1f}" for stage, ms in result.timings.items())
    return Response(
        await in_thread(png_bytes, result.image), 200, {"Server-Timing": timing}, "image/png"
    )


@_plain.get("/health/live")
async def live() -> dict[str, str]:
    """The worker answers."""
    return {"status": "live"}


@_plain.get(
    "/health/ready", responses={503: {"model": Refusal, "description": "`not_ready`: it stops."}}
)
async def ready(request: Request) -> dict[str, str]:
    """The pipeline is loaded and takes batches."""
    if not request.app.state.batcher.alive:
        raise HTTPException(503, "the batcher has stopped; the log says why: restart the worker")
    return {"status": "ready"}


@_plain.get("/metrics", response_class=Response)
def metrics() -> Response:
    """Prometheus metrics, of all workers where PROMETHEUS_MULTIPROC_DIR names their folder."""
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return Response(
        prometheus_client.generate_latest(registry),
        media_type=prometheus_client.CONTENT_TYPE_LATEST,
    )


def create_app() -> FastAPI:
    """The application, as the environment sets it; uvicorn calls this in every worker."""
    try:
        settings = Settings.from_environment()
        bundle = Bundle.load(settings.bundle or sample_bundle())
    except (BundleError, msgspec.ValidationError) as error:
        raise SystemExit(f"Error: {error}") from None
    app = FastAPIOffline(
        redoc_url=None,
        title="garment-transfer",
        version=__version__,
        description="Two photos in, one out: the second person's upper garment on the first.",
        lifespan=_lifespan,
    )
    app.state.settings, app.state.bundle = settings, bundle
    app.state.pending = 0
    app.state.uploads = {}
    app.add_middleware(_Head)
    for kind in (HTTPException, Exception):
        app.add_exception_handler(kind, _on_error)
    app.include_router(_transfers)
    app.include_router(_plain)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Loads the pipeline and runs it once before the worker takes requests."""
    settings: Settings = app.state.settings
    _forget_dead_workers()
    options = {"threads": settings.threads} if settings.threads else {}
    cv2.setNumThreads(settings.threads or default_threads() or -1)  # -1: its own choice
    pipeline = Pipeline.load(app.state.bundle, settings.backend, precision=None, **options)
    warm_up(pipeline)
    app.state.codecs = anyio.CapacityLimiter(_CODECS)
    app.state.pipeline = pipeline
    app.state.batcher = Batcher(
        pipeline, settings.max_batch, settings.max_wait_ms / 1000, _BATCHES.observe
    )
    yield
    # uvicorn comes here when the last request has been answered.
    await app.state.batcher.close()


def _read(pipeline: Pipeline, form: FormData, max_megapixels: float) -> tuple[Person, Person]:
    """The two people of a form; pixels are counted before any is decoded."""
    # an empty text counts as none, as FastAPI has it
    given = {name: v if isinstance(v, str) else v.file for name, v in form.items() if v}
    try:
        check_megapixels(given, max_megapixels)
    except InputError as error:
        raise HTTPException(413, str(error)) from error
    return read_request(pipeline, given)


def _forget_dead_workers() -> None:
    """Removes the gauges of workers that were killed, which could not do it themselves."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for path in Path(folder).glob("gauge_live*.db") if folder else ():
        pid = int(path.stem.rpartition("_")[2])
        if not psutil.pid_exists(pid):
            # Another worker that starts may be doing the same.
            with contextlib.suppress(FileNotFoundError):
                multiprocess.mark_process_dead(pid)
