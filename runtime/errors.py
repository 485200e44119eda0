"""The errors of this package, one family.

Every message says in one paragraph what was wrong and with which input, what was expected, and
the command or change that mends it. The command line prints the message alone.
"""


class GarmentTransferError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(GarmentTransferError):
    """A person, an image, a label map or a list of pairs that cannot be used."""


class OutputError(GarmentTransferError):
    """A result that cannot be written where it was asked for."""


class BundleError(GarmentTransferError):
    """A bundle that is not whole, not valid, or of a newer schema than this release reads."""


class BackendError(GarmentTransferError):
    """An inference backend that is unknown, not installed, or fails to load or run a graph."""


class EngineError(BackendError):
    """A TensorRT engine that is missing, not whole, or not for this bundle, version or GPU."""
