"""Versions of installed packages, without importing any of them."""

import importlib.metadata
from collections.abc import Iterable


def package_version() -> str:
    """The installed version; "unknown" where the package runs from a tree that is not installed."""
    try:
        return importlib.metadata.version("garment-transfer")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
