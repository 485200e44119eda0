"""A transfer server: FastAPI in front of `Pipeline`, with dynamic batching and back-pressure.

    uvicorn --app-dir examples/python_server --factory server:create_app --workers 2

Settings are environment variables: see `Settings`.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import anyio
import cv2
import numpy as np
import numpy.typing as npt
import prometheus_client
from batcher import Batcher
from fastapi import APIRouter, FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from PIL import Image
from prometheus_client import multiprocess
from starlette.requests import ClientDisconnect

from garment_transfer.bundle import LABEL_SETS, package_version
from garment_transfer.runtime import (
    GarmentTransferError,
    InputError,
    Person,
    Pipeline,
    sample_bundle,
    sample_people,
)
from garment_transfer.runtime.photos import ENCODINGS

_log = logging.getLogger(__name__)

_REQUESTS = prometheus_client.Counter(
    "garment_transfer_requests", "Requests for a transfer by HTTP status", ["status"]
)
_SECONDS = prometheus_client.Histogram(
    "garment_transfer_request_seconds",
    "Time of transfers that were answered with a picture",
    buckets=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8),
)
_STAGES = prometheus_client.Histogram(
    "garment_transfer_stage_seconds",
    "Time of each stage, of the whole batch but for compose",
    ["stage"],
    buckets=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28),
)
_BATCHES = prometheus_client.Histogram(
    "garment_transfer_batch_size", "Pairs in a batch", buckets=(1, 2, 4, 8, 16, 32)
)
_PENDING = prometheus_client.Gauge(
    "garment_transfer_pending", "Requests that hold a slot", multiprocess_mode="livesum"
)

# nginx's number for a client that left: nobody receives it, the metrics count it.
_CLIENT_LEFT = 499

# Multipart fields of a transfer.
_FILES, _FIELDS = 6, 4

# Threads that decode and encode pictures; each keeps memory of its own.
_CODECS = 2


@dataclass(frozen=True)
class Settings:
    """Settings of each worker; `GARMENT_TRANSFER_MAX_BATCH=4` sets `max_batch`, and so on."""

    bundle: str = ""  #: folder; empty for the one in the package
    backend: str = "onnxruntime"
    threads: int = 1  #: of each graph; with a worker per core, 1
    max_batch: int = 4  #: pairs in a batch
    max_wait_ms: float = 5.0  #: how long the first pair of a batch waits for others
    max_pending: int = 32  #: requests at a time; one more is answered 429
    max_body_mb: float = 32.0  #: megabytes of a request; more is answered 413
    max_megapixels: float = 4.0  #: of the photo and of each map; more is answered 413
    upload_seconds: float = 30.0  #: for the body to arrive; longer is answered 408

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings as the environment has them; ValueError for a value of another type."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            variable = f"GARMENT_TRANSFER_{field.name.upper()}"
            if variable in os.environ:
                make: Any = field.type
                try:
                    values[field.name] = make(os.environ[variable])
                except ValueError:
                    raise ValueError(
                        f"{variable} is {os.environ[variable]!r}; expected {make.__name__}"
                    ) from None
        return cls(**values)


class _AdmittedRoute(APIRoute):
    """A route that takes a slot before it reads the body, and gives it back if the client goes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def admitted(request: Request) -> Response:
            state = request.app.state
            started = time.perf_counter()
            status = 500
            try:
                response = await _admit(request, handle)
                status = response.status_code
                if status == 200:
                    _SECONDS.observe(time.perf_counter() - started)
                return response
            except HTTPException as error:
                status = error.status_code
                raise
            except (InputError, RequestValidationError):
                status = 422
                raise
            finally:
                _PENDING.set(state.pending)
                _REQUESTS.labels(status).inc()

        return admitted


async def _admit(
    request: Request, handle: Callable[[Request], Coroutine[Any, Any, Response]]
) -> Response:
    """Answers a request while a slot is held for it; HTTPException where it gets none."""
    state = request.app.state
    settings: Settings = state.settings
    try:
        if state.pending >= settings.max_pending:
            # Many clients look at the answer only after they have sent everything.
            async with asyncio.timeout(settings.upload_seconds):
                async for _ in request.stream():
                    pass
            seconds = math.ceil(state.pending * state.batcher.seconds_per_pair)
            raise HTTPException(
                429,
                f"all {settings.max_pending} slots are taken; send it again after the seconds in "
                "Retry-After",
                headers={"Retry-After": str(max(1, seconds))},
            )
        state.pending += 1
        _PENDING.set(state.pending)
        try:
            async with asyncio.timeout(settings.upload_seconds):
                await request.form(max_files=_FILES, max_fields=_FIELDS)
            return await _while_connected(request, handle(request))
        finally:
            state.pending -= 1
    except TimeoutError:
        raise HTTPException(
            408,
            f"the request did not arrive within {settings.upload_seconds:g} seconds; send smaller "
            "files",
        ) from None
    except ClientDisconnect:
        return Response(status_code=_CLIENT_LEFT)


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

_admitted = APIRouter(route_class=_AdmittedRoute)
_plain = APIRouter()


@_admitted.post(
    "/transfer",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {}}, "description": "The person in the other garment."},
        408: {"description": "The request took too long to arrive."},
        413: {"description": "The request, or an image in it, is too large."},
        422: {"description": "A photo or a map cannot be used; `detail` says what mends it."},
        429: {"description": "All slots are taken; `Retry-After` says when to send it again."},
    },
)
async def transfer(
    request: Request,
    person_image: UploadFile,
    person_parsing: UploadFile,
    person_densepose: UploadFile,
    person_label_set: Annotated[str, _LABEL_SET],
    person_encoding: Annotated[str, _ENCODING],
    garment_image: UploadFile,
    garment_parsing: UploadFile,
    garment_densepose: UploadFile,
    garment_label_set: Annotated[str, _LABEL_SET],
    garment_encoding: Annotated[str, _ENCODING],
) -> Response:
    """Put the upper garment of the second person on the first.

    Each person is a photo with its parse map and its DensePose, as files. The answer is a PNG of
    the first photo's size; its header `Server-Timing` has the milliseconds of each stage.
    """
    state = request.app.state
    limit: float = state.settings.max_megapixels
    person = await anyio.to_thread.run_sync(
        _read,
        (person_image.file, person_parsing.file, person_densepose.file),
        (person_label_set, person_encoding),
        "person",
        limit,
        limiter=state.codecs,
    )
    owner = await anyio.to_thread.run_sync(
        _read,
        (garment_image.file, garment_parsing.file, garment_densepose.file),
        (garment_label_set, garment_encoding),
        "garment owner",
        limit,
        limiter=state.codecs,
    )
    owner.check_garment("the")  # here, because it would fail its whole batch
    transfer = await state.batcher.transfer(person, owner)
    for stage, milliseconds in transfer.timings.items():
        _STAGES.labels(stage).observe(milliseconds / 1000)
    return Response(
        await anyio.to_thread.run_sync(_png, transfer.image, limiter=state.codecs),
        media_type="image/png",
        headers={
            "Server-Timing": ", ".join(f"{k};dur={v:.1f}" for k, v in transfer.timings.items())
        },
    )


@_plain.get("/health/live")
async def live() -> dict[str, str]:
    """The worker answers."""
    return {"status": "live"}


@_plain.get("/health/ready")
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
    settings = Settings.from_environment()
    app = FastAPI(
        title="garment-transfer",
        version=package_version(),
        description="Two photos in, one out: the second person's upper garment on the first.",
        lifespan=_lifespan,
        max_body_size=int(settings.max_body_mb * 1e6),
    )
    app.state.settings = settings
    app.state.pending = 0
    app.include_router(_admitted)
    app.include_router(_plain)

    @app.exception_handler(InputError)
    async def unusable(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(GarmentTransferError)
    async def failed(request: Request, error: GarmentTransferError) -> JSONResponse:
        _log.error("a transfer failed", exc_info=error)
        return JSONResponse({"detail": str(error)}, 500)

    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Loads the pipeline and runs it once before the worker takes requests."""
    settings: Settings = app.state.settings
    _forget_dead_workers()
    pipeline = Pipeline.load(
        settings.bundle or sample_bundle(), settings.backend, threads=settings.threads
    )
    pipeline.transfer(*map(Person.load, sample_people()))
    app.state.codecs = anyio.CapacityLimiter(_CODECS)
    app.state.batcher = Batcher(
        pipeline, settings.max_batch, settings.max_wait_ms / 1000, _BATCHES.observe
    )
    yield
    # uvicorn comes here when the last request has been answered.
    await app.state.batcher.close()


def _read(
    files: tuple[BinaryIO, BinaryIO, BinaryIO],
    label_set_and_encoding: tuple[str, str],
    who: str,
    max_megapixels: float,
) -> Person:
    """One person out of the uploads; their pixels are counted before any is decoded."""
    label_set, encoding = label_set_and_encoding
    for file, what in zip(files, ("image", "parsing", "densepose"), strict=True):
        try:
            with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
                pixels = image.width * image.height
        except Image.DecompressionBombError:
            pixels = Image.MAX_IMAGE_PIXELS or 0
        except (OSError, SyntaxError, ValueError):
            pixels = 0  # no image: a NumPy file, or the reader says what is wrong
        if pixels > max_megapixels * 1e6:
            raise HTTPException(
                413,
                f"{what} of {who} has more than {max_megapixels:g} megapixels; scale the photo and "
                "its maps down first",
            )
        file.seek(0)
    return Person.from_files(*files, label_set, encoding, who)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    # Speed over size: the default level takes thrice as long for a fifth less.
    return cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def _forget_dead_workers() -> None:
    """Removes the gauges of workers that were killed, which could not do it themselves."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for path in Path(folder).glob("gauge_live*.db") if folder else ():
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            # Another worker that starts may be doing the same.
            with contextlib.suppress(FileNotFoundError):
                multiprocess.mark_process_dead(pid)
        except PermissionError:
            pass
