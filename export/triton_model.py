"""The model of Triton's Python backend: a bundle run by this package's runtime.

`garment-transfer triton` copies this file as `model.py` beside the bundle. Only a Triton server
can import it, and garment-transfer has to be installed in the Python that the server runs.
"""

from __future__ import annotations

import io
import json
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from garment_transfer import Code, GarmentTransferError, InputError, Person, Pipeline, Transfer
from garment_transfer.runtime import (
    REQUEST_FIELDS,
    check_megapixels,
    read_request,
    transfer_each,
    warm_up,
)
from garment_transfer.runtime.backends import default_threads
from garment_transfer.runtime.photos import png_bytes

Contents = dict[str, npt.NDArray[np.generic]]
Pair = tuple[Person, Person]


class TritonPythonModel:
    """One instance: a pipeline of its own in a process of its own.

    Requests that Triton hands over together are run as one batch. A request that cannot be run
    gets the runtime's own code and message, "[garment_missing] ...", and the others of its batch
    are answered all the same: InputError as an invalid argument (HTTP 400), any other error of the
    runtime as an internal error (HTTP 500), a request that its client gave up as cancelled. An
    error that is not the runtime's is an internal one too, and its traceback stays in the server's
    log.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the bundle beside this file, as the parameters in `config.pbtxt` say."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        options = {}
        threads = default_threads()
        if "threads" in parameters:
            options["threads"] = threads = int(parameters["threads"])
        if args["model_instance_kind"] == "GPU":
            options["device"] = int(args["model_instance_device_id"])
        self._max_megapixels = float(parameters["max_megapixels"])
        cv2.setNumThreads(threads or -1)  # -1: its own choice
        # reads and encodes the photos of a batch
        self._codecs = ThreadPoolExecutor(threads)
        try:
            self._pipeline = Pipeline.load(
                Path(args["model_repository"]) / args["model_version"] / "bundle",
                parameters["backend"],
                precision=parameters.get("precision"),
                **options,
            )
            # here: where warm-ups of the configuration fail, Triton 2.51 crashes
            warm_up(self._pipeline, int(config["max_batch_size"]))
        except GarmentTransferError as error:
            raise pb_utils.TritonModelException(f"[{error.code}] {error}") from None

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response per request, in order."""
        given = [None if one.is_cancelled() else self._bytes(one) for one in requests]
        read = list(self._codecs.map(self._read, given))
        pairs = [pair for pair in read if isinstance(pair, tuple)]
        transfers = iter(transfer_each(self._pipeline, pairs))
        results = [next(transfers) if isinstance(one, tuple) else one for one in read]
        return list(map(_response, self._codecs.map(_encoded, results)))

    def _bytes(self, request: pb_utils.InferenceRequest) -> Contents:
        """What a request gives, by the names of its inputs: [1, bytes]."""
        get = pb_utils.get_input_tensor_by_name
        # as_numpy() and strings of Triton before 2.52 are not NumPy 2's; DLPack is the same
        return {
            name: np.from_dlpack(tensor)
            for name in REQUEST_FIELDS
            if (tensor := get(request, name)) is not None
        }

    def _read(self, given: Contents | None) -> Pair | Exception | None:
        if given is None:
            return None
        try:
            count = max(map(len, given.values()))
            if count > 1:
                raise InputError(
                    Code.BATCH_INVALID,
                    f"a request for {count} pairs",
                    expected="one, since files differ in length",
                    fix="send them at the same time: those that wait together run together",
                )
            fields: dict[str, BinaryIO | str] = {}
            for name, (content,) in given.items():
                is_file = not name.endswith(("label_set", "encoding"))
                text = bytes(content)
                fields[name] = io.BytesIO(text) if is_file else text.decode(errors="replace")
            check_megapixels(fields, self._max_megapixels)
            return read_request(self._pipeline, fields)
        except Exception as error:
            return error


def _encoded(result: Transfer | Exception | None) -> bytes | Exception | None:
    try:
        return png_bytes(result.image) if isinstance(result, Transfer) else result
    except Exception as error:
        return error


def _response(result: bytes | Exception | None) -> pb_utils.InferenceResponse:
    """The answer to a request: its photo, why there is none, or None where it was cancelled."""
    errors = pb_utils.TritonError
    if isinstance(result, bytes):
        # DLPack takes no array that is read-only, as one over `bytes` is
        file = np.frombuffer(bytearray(result), np.uint8)[None]
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("image", file)])
    if result is None:
        error = errors("cancelled by the client", errors.CANCELLED)
    elif isinstance(result, GarmentTransferError):
        kind = errors.INVALID_ARG if isinstance(result, InputError) else errors.INTERNAL
        error = errors(f"[{result.code}] {result}", kind)
    else:
        pb_utils.Logger.log_error("".join(traceback.format_exception(result)))
        error = errors("the server failed to run this request; its log says why", errors.INTERNAL)
    return pb_utils.InferenceResponse(error=error)
