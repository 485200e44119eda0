"""The version of this package, without importing any of it."""

import importlib.metadata


def package_version() -> str:
    """The installed version; "unknown" where the package runs from a tree that is not installed."""
    try:
        return importlib.metadata.version("garment-transfer")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
