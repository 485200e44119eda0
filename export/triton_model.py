"""The model of Triton's Python backend: a bundle run by this package's runtime.

`garment-transfer triton` copies this file as `model.py` beside the bundle. Only a Triton server
can import it, and garment-transfer has to be installed in the Python that the server runs.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from garment_transfer import GarmentTransferError, InputError, Person, Pipeline

Arrays = dict[str, npt.NDArray[np.generic]]


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
        folder = Path(args["model_repository"])
        options = {}
        if "threads" in parameters:
            options["threads"] = int(parameters["threads"])
        if args["model_instance_kind"] == "GPU":
            options["device"] = int(args["model_instance_device_id"])
        self._names = [tensor["name"] for tensor in config["input"]]
        try:
            self._pipeline = Pipeline.load(
                folder / args["model_version"] / "bundle",
                parameters["backend"],
                precision=parameters.get("precision"),
                **options,
            )
            # Triton's own warm-up comes next, and Triton 2.51 crashes where that fails. Here a
            # failure only keeps the model from loading.
            for warm_up in config["model_warmup"]:
                inputs = {}
                for name, entry in warm_up["inputs"].items():
                    array = np.fromfile(folder / "warmup" / entry["input_data_file"], np.uint8)
                    one = array.reshape(1, *map(int, entry["dims"]))
                    inputs[name] = np.repeat(one, int(warm_up["batch_size"]), axis=0)
                self._pipeline.run(inputs)
        except GarmentTransferError as error:
            raise pb_utils.TritonModelException(f"[{error.code}] {error}") from None

    def execute(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """One response per request, in order."""
        try:
            results = self._results(requests)
        except Exception:
            pb_utils.Logger.log_error(traceback.format_exc())
            message = "the server failed to run this request; its log says why"
            error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        return [_response(request, results[index]) for index, request in enumerate(requests)]

    def _results(
        self, requests: Sequence[pb_utils.InferenceRequest]
    ) -> dict[int, Arrays | GarmentTransferError | None]:
        """The outputs or the error of each request by its index, None where it was cancelled."""
        results: dict[int, Arrays | GarmentTransferError | None] = {}
        runnable: dict[int, Arrays] = {}
        for index, request in enumerate(requests):
            if request.is_cancelled():
                results[index] = None
                continue
            inputs: Arrays = {
                name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name))
                for name in self._names
            }
            try:
                _check(inputs)
            except InputError as error:
                results[index] = error
            else:
                runnable[index] = inputs
        return results | self._run(runnable)

    def _run(self, inputs: dict[int, Arrays]) -> dict[int, Arrays | GarmentTransferError]:
        """Runs requests as one batch and gives each its part; alone, should the batch fail."""
        if not inputs:
            return {}
        requests = list(inputs.values())
        try:
            outputs = self._pipeline.run(
                requests[0]
                if len(requests) == 1
                else {name: np.concatenate([one[name] for one in requests]) for name in self._names}
            )
        except GarmentTransferError as error:
            if len(requests) == 1:
                return dict.fromkeys(inputs, error)
            alone = (self._run({index: one}) for index, one in inputs.items())
            return {index: result for results in alone for index, result in results.items()}
        ends = np.cumsum([len(one["person_image"]) for one in requests])
        parts = {name: np.split(array, ends[:-1]) for name, array in outputs.items()}
        return {
            index: {name: part[place] for name, part in parts.items()}
            for place, index in enumerate(inputs)
        }


def _check(inputs: Arrays) -> None:
    """Raises InputError unless every pair in a request is one that a transfer takes.

    Types and shapes are the configuration's, which Triton has checked.
    """
    count = len(inputs["person_image"])
    for pair in range(count):
        where = ""
        try:
            for role in ("person", "garment"):
                where = f"{role}: "
                someone = Person(
                    *(
                        inputs[f"{role}_{field}"][pair]
                        for field in ("image", "parsing", "densepose")
                    )
                )
            where = ""
            someone.check_garment()
        except InputError as error:
            of_pair = f"pair {pair}: " if count > 1 else ""
            raise InputError(
                error.code, f"{of_pair}{where}{error.what}", expected=error.expected, fix=error.fix
            ) from None


def _response(
    request: pb_utils.InferenceRequest, result: Arrays | GarmentTransferError | None
) -> pb_utils.InferenceResponse:
    errors = pb_utils.TritonError
    if result is None:
        error = errors("cancelled by the client", errors.CANCELLED)
    elif isinstance(result, GarmentTransferError):
        kind = errors.INVALID_ARG if isinstance(result, InputError) else errors.INTERNAL
        error = errors(f"[{result.code}] {result}", kind)
    else:
        # as_numpy() and arrays of this build are not NumPy 2's; DLPack is the same
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor.from_dlpack(name, result[name])
                for name in request.requested_output_names()
            ]
        )
    return pb_utils.InferenceResponse(error=error)
