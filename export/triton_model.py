"""The model of Triton's Python backend: a bundle run by this package's runtime.

`garment-transfer triton` writes a `model.py` that imports `TritonPythonModel` from here, so this
package has to be installed in the Python that the server runs (`pip install` in its image).
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# Triton's own module, which only its Python backend can import.
import triton_python_backend_utils as pb_utils

from garment_transfer.bundle import GarmentTransferError, InputError
from garment_transfer.runtime import Pipeline
from garment_transfer.runtime.backends import DEVICE_BACKENDS
from garment_transfer.runtime.photos import Person

_Arrays = dict[str, npt.NDArray[Any]]

_INPUTS: Final = tuple(
    f"{role}_{field}"
    for role in ("person", "garment")
    for field in ("image", "parsing", "densepose")
)


class TritonPythonModel:
    """One instance: a pipeline of its own in a process of its own.

    Requests that Triton hands over together are run as one batch. A request that cannot be run
    gets the runtime's own message, and the others of its batch are answered all the same:
    InputError as an invalid argument (HTTP 400), any other error of the runtime as an internal
    error (HTTP 500), a request that its client gave up as cancelled. What nobody foresaw is an
    internal error too, and its traceback stays in the server's log.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the bundle beside `model.py`, as the parameters in `config.pbtxt` say."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        folder = Path(args["model_repository"])
        threads, device = parameters.get("threads"), args["model_instance_device_id"]
        try:
            self._pipeline = Pipeline.load(
                folder / args["model_version"] / "bundle",
                parameters["backend"],
                precision=parameters.get("precision"),
                **({"threads": int(threads)} if threads else {}),
                **({"device": int(device)} if parameters["backend"] in DEVICE_BACKENDS else {}),
            )
            # Triton's own warm-up comes next, and Triton 2.51 crashes where that fails. Here a
            # failure only keeps the model from loading.
            for warm_up in config["model_warmup"]:
                self._pipeline.run(_warm_up_inputs(folder, warm_up))
        except GarmentTransferError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order."""
        try:
            return self._execute(requests)
        except Exception:
            pb_utils.Logger.log_error(traceback.format_exc())
            message = "the server failed to run this request; its log says why"
            return [_refusal(message, pb_utils.TritonError.INTERNAL) for _ in requests]

    def _execute(self, requests: Sequence[Any]) -> list[Any]:
        responses: list[Any] = [None] * len(requests)
        runnable: dict[int, _Arrays] = {}
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _refusal(
                    "cancelled by the client", pb_utils.TritonError.CANCELLED
                )
                continue
            try:
                runnable[index] = _checked(
                    {
                        name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name))
                        for name in _INPUTS
                    }
                )
            except InputError as error:
                responses[index] = _response(error)
        for index, result in self._run(runnable).items():
            if isinstance(result, GarmentTransferError):
                responses[index] = _response(result)
                continue
            responses[index] = pb_utils.InferenceResponse(
                [
                    # as_numpy() and arrays of this build are not NumPy 2's; DLPack is the same.
                    pb_utils.Tensor.from_dlpack(name, result[name])
                    for name in requests[index].requested_output_names()
                ]
            )
        return responses

    def _run(self, inputs: dict[int, _Arrays]) -> dict[int, _Arrays | GarmentTransferError]:
        """Runs requests as one batch and gives each its part; alone, should the batch fail."""
        if not inputs:
            return {}
        requests = list(inputs.values())
        try:
            outputs = self._pipeline.run(
                requests[0]
                if len(requests) == 1
                else {name: np.concatenate([one[name] for one in requests]) for name in _INPUTS}
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


def _warm_up_inputs(folder: Path, warm_up: Mapping[str, Any]) -> _Arrays:
    """The inputs of a warm-up in `config.pbtxt`: one pair, as often as its batch is large."""
    inputs = {}
    for name, entry in warm_up["inputs"].items():
        array = np.fromfile(folder / "warmup" / entry["input_data_file"], np.uint8)
        one = array.reshape(1, *map(int, entry["dims"]))
        inputs[name] = np.repeat(one, int(warm_up["batch_size"]), axis=0)
    return inputs


def _checked(inputs: _Arrays) -> _Arrays:
    """The inputs, once every pair in them is one that a transfer takes. Raises InputError.

    Types and shapes are the configuration's, which Triton has checked.
    """
    count = len(inputs["person_image"])
    for pair in range(count):
        of_pair = f"pair {pair}: " if count > 1 else ""
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
            raise InputError(f"{of_pair}{where}{error}") from None
    return inputs


def _response(error: GarmentTransferError) -> Any:
    codes = pb_utils.TritonError
    code = codes.INVALID_ARG if isinstance(error, InputError) else codes.INTERNAL
    return _refusal(str(error), code)


def _refusal(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
