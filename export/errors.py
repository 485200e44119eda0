"""The errors of the exporter."""

from garment_transfer.runtime.errors import BundleError


class ExportError(BundleError):
    """Networks that cannot become a bundle: a stage is missing or a graph differs from torch."""
