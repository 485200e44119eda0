"""The errors of this package: one family, and a stable code for each way to fail.

A message says what was wrong and with which input, what was expected, and the command or change
that fixes it. The same three parts and the code are attributes, so that a program need not read
the message: `str(error)` is "WHAT; expected EXPECTED; FIX".
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial


class Code(StrEnum):
    """The ways to fail. Values are stable: they are the `code` of HTTP answers, and the C header
    has the same names for those that the C++ library knows (`GT_BUNDLE_MISSING`)."""

    # what a caller passes
    ARGUMENT_INVALID = "argument_invalid"  #: a number or name that no call takes
    ARRAY_INVALID = "array_invalid"  #: an array of another type, shape or device
    BATCH_INVALID = "batch_invalid"  #: an empty batch, or arrays of different batch sizes
    ID_OUT_OF_RANGE = "id_out_of_range"  #: a class id or body part that does not exist
    # photos, maps and people
    IMAGE_MISSING = "image_missing"  #: the file does not exist
    IMAGE_UNREADABLE = "image_unreadable"  #: not an image, or not a whole one
    IMAGE_MODE = "image_mode"  #: colours where ids belong, or the other way round
    IMAGE_SIZE = "image_size"  #: empty, or more pixels than allowed
    PERSON_MISSING = "person_missing"  #: not a folder
    PERSON_INCOMPLETE = "person_incomplete"  #: a folder without one of its files
    PERSON_AMBIGUOUS = "person_ambiguous"  #: two files of one kind
    META_INVALID = "meta_invalid"  #: meta.json is not JSON, or lacks a name
    LABEL_SET_UNKNOWN = "label_set_unknown"
    LABEL_SET_MISMATCH = "label_set_mismatch"  #: ids that the named label set does not have
    DENSEPOSE_ENCODING_UNKNOWN = "densepose_encoding_unknown"
    DENSEPOSE_INVALID = "densepose_invalid"  #: values that the named encoding does not have
    SIZES_DIFFER = "sizes_differ"  #: a photo and its maps are not of one shape
    BODY_MISSING = "body_missing"  #: a map shows nobody, a photo nobody who can be made out
    BODY_AMBIGUOUS = "body_ambiguous"  #: it covers several people, and none was chosen
    VIEW_UNSUPPORTED = "view_unsupported"  #: somebody from behind or from the side, or lying
    GARMENT_MISSING = "garment_missing"  #: the garment's owner wears no upper garment
    TRANSFER_IMPLAUSIBLE = "transfer_implausible"  #: a result that cannot be right
    PAIRS_INVALID = "pairs_invalid"  #: a list of pairs that cannot be read
    MAP_MODEL_INVALID = "map_model_invalid"  #: a parser or DensePose model, or its description
    CONFIG_INVALID = "config_invalid"  #: a configuration file or data set of a training
    TRAINING_DIVERGED = "training_diverged"  #: a loss or gradient that is not finite
    RESULT_INVALID = "result_invalid"  #: not a result of the benchmark
    # where results go
    OUTPUT_FORMAT = "output_format"  #: no picture format, or one that holds fewer pixels
    OUTPUT_UNWRITABLE = "output_unwritable"
    OUTPUT_EXISTS = "output_exists"  #: something else is there already
    # bundles
    BUNDLE_MISSING = "bundle_missing"  #: not a folder
    MANIFEST_MISSING = "manifest_missing"
    MANIFEST_UNREADABLE = "manifest_unreadable"
    MANIFEST_INVALID = "manifest_invalid"  #: not JSON, or a field is missing, unknown or wrong
    MANIFEST_TOO_OLD = "manifest_too_old"  #: of an older schema than this release reads
    MANIFEST_TOO_NEW = "manifest_too_new"  #: of a newer schema than this release reads
    CONTRACT_MISMATCH = "contract_mismatch"  #: a graph with other inputs or outputs
    GRAPH_MISSING = "graph_missing"
    GRAPH_TRUNCATED = "graph_truncated"
    GRAPH_ALTERED = "graph_altered"  #: its size or hash is not the manifest's
    PRECISION_MISSING = "precision_missing"  #: the bundle has no graphs of that precision
    # export
    EXPORT_INVALID = "export_invalid"  #: networks, sizes or names that cannot be exported
    EXPORT_INACCURATE = "export_inaccurate"  #: a graph that differs too much from its network
    CHECKPOINT_INVALID = "checkpoint_invalid"
    # backends
    BACKEND_UNKNOWN = "backend_unknown"
    BACKEND_UNAVAILABLE = "backend_unavailable"  #: not installed, or without its device
    OPTION_UNKNOWN = "option_unknown"  #: an option that the backend does not have
    OPTION_INVALID = "option_invalid"  #: a value that the option does not have
    GRAPH_REJECTED = "graph_rejected"  #: the backend does not load a graph
    RUN_FAILED = "run_failed"
    OUT_OF_MEMORY = "out_of_memory"
    CUDA_FAILED = "cuda_failed"
    PIPELINE_CLOSED = "pipeline_closed"
    SESSION_CLOSED = "session_closed"
    SESSIONS_IN_USE = "sessions_in_use"  #: none came free in time, or the caller holds them
    SESSION_BUSY = "session_busy"  #: of the C++ library: in use by another thread
    INTERNAL_ERROR = "internal_error"  #: of the C++ library: a fault of its own
    # TensorRT engines
    ENGINES_MISSING = "engines_missing"
    RECORD_INVALID = "record_invalid"
    ENGINE_MISMATCH = "engine_mismatch"  #: built from other graphs, or with another plugin
    ENGINE_VERSION = "engine_version"  #: built by another version of TensorRT
    ENGINE_GPU = "engine_gpu"  #: built for other GPUs
    ENGINE_BATCH = "engine_batch"  #: built for other batch sizes
    ENGINE_ALTERED = "engine_altered"  #: missing, truncated, or its hash is not the record's
    ENGINE_REJECTED = "engine_rejected"  #: TensorRT does not load it
    PLUGIN_MISSING = "plugin_missing"  #: FlowWarp's plugin is called and not there
    BUILD_FAILED = "build_failed"


class GarmentTransferError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        code: which way to fail it is.
        what: what was wrong, and with which input.
        expected: what was expected; empty where `what` says it already.
        fix: the command or change that fixes it; empty where nothing is known to.
    """

    def __init__(self, code: Code, what: str, *, expected: str = "", fix: str = "") -> None:
        self.code = code
        self.what = what
        self.expected = expected
        self.fix = fix
        parts = (what, expected and f"expected {expected}", fix)
        super().__init__("; ".join(part for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        # by its parts: an exception is pickled by what `args` holds, which is the message
        restore = partial(type(self), expected=self.expected, fix=self.fix)
        return restore, (self.code, self.what)


class InputError(GarmentTransferError):
    """A person, an image, a label map or a list of pairs that cannot be used."""


class OutputError(GarmentTransferError):
    """A result that cannot be written where it was asked for."""


class BundleError(GarmentTransferError):
    """A bundle that is not whole, not valid, or of a newer schema than this release reads."""


class ExportError(BundleError):
    """Networks that cannot become a bundle: a stage is missing or a graph differs from torch."""


class BackendError(GarmentTransferError):
    """An inference backend that is unknown, not installed, or fails to load or run a graph."""


class EngineError(BackendError):
    """A TensorRT engine that is missing, not whole, or not for this bundle, version or GPU."""


def reason_of(error: BaseException) -> object:
    """What an error says beside the path, which the message around it names already."""
    return getattr(error, "strerror", None) or error
