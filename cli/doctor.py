"""`garment-transfer doctor`: what is installed, what can run here, and what fixes the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import io
import json
import operator
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from garment_transfer.bundle import GarmentTransferError, installed_versions, package_version

#: What commands need beyond the base installation and a backend.
_EXTRAS: Final = ("benchmark", "demo", "export", "heif", "openvino", "triton", "train", "serve")

#: Where Linux's kernel says which driver it has loaded.
_DRIVER: Final = Path("/proc/driver/nvidia/version")

#: Module, what it has where it is whole, and the package that brings it.
_BASE: Final = (
    ("numpy", "ndarray", "numpy"),
    ("cv2", "remap", "opencv-python-headless"),
    ("PIL.ImageCms", "core.buildTransform", "pillow"),
    ("msgspec", "Struct", "msgspec"),
    ("click", "Command", "click"),
    ("tqdm", "tqdm", "tqdm"),
)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Say what is installed, which backends can run here, and what fixes those that cannot.

    The exit status is 1 when a transfer cannot run.
    """
    findings = _findings()
    click.echo(json.dumps(findings, indent=2) if as_json else "\n".join(_describe(findings)))
    context.exit(0 if findings["can_transfer"] else 1)


def _findings() -> dict[str, Any]:
    versions = installed_versions(package for _, _, package in _BASE)
    problems = {}
    for module, attribute, package in _BASE:
        # what an uninstalled package left behind imports, and has nothing in it
        has = operator.attrgetter(attribute)
        _, error = _tried(lambda: has(importlib.import_module(module)))  # noqa: B023
        if error is not None:
            problems[package] = _reason(error)
    # another package may provide the module, as opencv-python does cv2
    packages = {
        package: versions.get(package, None if package in problems else "unknown")
        for _, _, package in _BASE
    }
    findings = {
        "garment_transfer": package_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "packages": packages,
        "missing": [package for package in problems if package not in versions],
        "damaged": {package: why for package, why in problems.items() if package in versions},
        "extras": {extra: _packages_of(extra) for extra in _EXTRAS},
        "can_transfer": False,
    }
    return findings if problems else {**findings, **_of_the_package()}


def _of_the_package() -> dict[str, Any]:
    """What can be known only where the packages of the base installation are whole."""
    from garment_transfer.bundle import Bundle
    from garment_transfer.kernels import photos, photos_library
    from garment_transfer.runtime import sample_bundle
    from garment_transfer.runtime.backends import BACKENDS, default_threads, find_backend

    backends = [dataclasses.asdict(find_backend(name).status()) for name in BACKENDS]
    library = photos.load()
    cuda = "with" if library and library.has_cuda else "without"
    _, damage = _tried(lambda: Bundle.load(sample_bundle()))
    return {
        "threads": default_threads(),
        "backends": backends,
        "driver": _driver(),
        "engines": _engines(),
        # Fit and Compose; None where there is none that loads
        "photos_library": f"{photos_library()}, {cuda} CUDA" if library else None,
        "bundle_problem": str(damage or ""),
        # the first is what a transfer takes unless told otherwise
        "can_transfer": not damage and backends[0]["available"],
    }


def _tried(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What a function gives, or its error: whatever a package that is damaged meets first."""
    try:
        # NumPy prints a page where a package was built for another version of it
        with contextlib.redirect_stderr(io.StringIO()):
            return function(), None
    except Exception as error:
        return None, error


def _reason(error: Exception) -> str:
    """An error in a line; of one that this package raises, what was wrong."""
    text = error.what if isinstance(error, GarmentTransferError) else str(error)
    kind = "" if isinstance(error, GarmentTransferError) else f"{type(error).__name__}: "
    return f"{kind}{text}".partition("\n")[0]


def _driver() -> dict[str, Any]:
    """NVIDIA's driver: its version where the kernel tells it, and the CUDA that it is for."""
    from garment_transfer.kernels.driver import (
        MIN_CUDA,
        MIN_DRIVER,
        CudaError,
        cuda_name,
        driver_version,
    )

    found = {"version": None, "cuda": None, "reason": ""}
    needed = f"{MIN_DRIVER} or later, for CUDA {cuda_name(MIN_CUDA)}"
    if _DRIVER.is_file():
        match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text("utf-8"))
        found["version"] = match[1] if match else None
    version, error = _tried(driver_version)
    if error is not None:
        found["reason"] = str(error) if isinstance(error, CudaError) else _reason(error)
    else:
        found["cuda"] = cuda_name(version)
        if version < MIN_CUDA:
            found["reason"] = "it is too old"
    return {**found, "needed": needed}


def _engines() -> dict[str, Any]:
    """What TensorRT engines can be built with and for here; `build` takes what is said here."""
    from garment_transfer.bundle import ENGINE_BACKENDS, RTX_COMPUTE_CAPABILITIES, BackendError
    from garment_transfer.kernels import tensorrt_library
    from garment_transfer.runtime.backends.tensorrt import tensorrt_module
    from garment_transfer.runtime.cuda import CudaDevice

    gpu: dict[str, str | None] = {"name": None, "compute_capability": None, "reason": ""}
    device, error = _tried(CudaDevice)
    if error is not None:
        gpu["reason"] = _reason(error)
    else:
        gpu.update(name=device.name, compute_capability=device.compute_capability)
        if device.compute_capability not in RTX_COMPUTE_CAPABILITIES:
            gpu["reason"] = "TensorRT runs on it, TensorRT-RTX does not"
    backends = []
    for name in ENGINE_BACKENDS:
        found = {"name": name, "version": None, "builds": False, "reason": ""}
        found["version"], error = _tried(lambda: tensorrt_module(name).__version__)  # noqa: B023
        if error is not None:
            found["reason"] = str(error) if isinstance(error, BackendError) else _reason(error)
        else:
            found["builds"] = name == "tensorrt-rtx" or gpu["name"] is not None
            if not found["builds"]:
                found["reason"] = "it builds engines on the GPU that they are for"
        backends.append(found)
    library = tensorrt_library()
    return {"gpu": gpu, "backends": backends, "plugin": str(library) if library else None}


def _packages_of(extra: str) -> dict[str, str | None]:
    """The packages of an extra by the installed package's metadata, with their versions."""
    try:
        requirements = importlib.metadata.requires("garment-transfer") or []
    except importlib.metadata.PackageNotFoundError:  # it runs from a tree that is not installed
        return {}
    # Such as `torch>=2.9; extra == "train"`.
    pattern = re.compile(rf"([\w.-]+).*;.*\bextra\s*==\s*[\"']{extra}[\"'].*")
    packages = [match[1] for match in map(pattern.fullmatch, requirements) if match]
    versions = installed_versions(packages)
    return {package: versions.get(package) for package in packages}


def _again(package: str) -> str:
    """The command that installs a package anew: pip leaves one alone that it takes for whole."""
    oldest = {"opencv-python-headless": '"opencv-python-headless>=4.10.0.84"'}
    return f"pip install --force-reinstall --no-deps {oldest.get(package, package)}"


def _describe_engines(engines: dict[str, Any]) -> Iterator[str]:
    gpu = engines["gpu"]
    if gpu["name"] is None:
        yield f"GPU: none: {gpu['reason']}"
    else:
        yield f"GPU: {gpu['name']}, compute capability {gpu['compute_capability']}"
        if gpu["reason"]:
            yield f"  {gpu['reason']}"
    for backend in engines["backends"]:
        version = f" {backend['version']}" if backend["version"] else ""
        can = "builds engines here" if backend["builds"] else f"builds none: {backend['reason']}"
        yield f"build with {backend['name']}{version}: {can}"
    if engines["plugin"]:
        yield f"FlowWarp's TensorRT plugin: {engines['plugin']}"
    else:
        yield "FlowWarp's TensorRT plugin: not built; TensorRT then runs FlowWarp's body"
        yield (
            "  fix: install garment-transfer again where TensorRT_ROOT names TensorRT's headers "
            "and there is nvcc"
        )


def _describe_package(findings: dict[str, Any]) -> Iterator[str]:
    for backend in findings["backends"]:
        if backend["available"]:
            yield f"backend {backend['name']} {backend['version']}: {backend['details']}"
        else:
            yield f"backend {backend['name']}: cannot run: {backend['reason']}"
            yield f"  fix: {backend['fix']}"
    driver = findings["driver"]
    version = driver["version"] or ("not found" if driver["cuda"] is None else "there")
    cuda = f", for CUDA {driver['cuda']}" if driver["cuda"] else ""
    reason = f": {driver['reason']}" if driver["reason"] else ""
    yield f"NVIDIA driver: {version}{cuda}{reason}"
    yield f"  needed on a GPU: {driver['needed']}"
    yield from _describe_engines(findings["engines"])
    library = findings["photos_library"]
    yield f"Fit and Compose in C++: {library or 'none; photos take several times as long'}"
    if library is None:
        yield "  fix: install garment-transfer again where there is a C++ compiler"
    yield f"bundle in the package: {findings['bundle_problem'] or 'whole'}"


def _describe(findings: dict[str, Any]) -> Iterator[str]:
    threads = f", {findings['threads']} threads by default" if findings.get("threads") else ""
    yield (
        f"garment-transfer {findings['garment_transfer']}, Python {findings['python']}, "
        f"{findings['platform']}, {findings['cpu_cores']} CPU cores{threads}"
    )
    packages = findings["packages"].items()
    yield "packages: " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in packages)
    if findings["missing"]:
        yield f"  fix: run `pip install {' '.join(findings['missing'])}`"
    for package, problem in findings["damaged"].items():
        yield f"{package} is installed, but cannot be used: {problem}"
        yield f"  fix: run `{_again(package)}`"
    if "backends" in findings:
        yield from _describe_package(findings)
    for extra, versions in findings["extras"].items():
        absent = [package for package, version in versions.items() if version is None]
        if absent:
            yield f"extra {extra}: not installed: {', '.join(absent)}"
            yield (
                f'  fix: run `pip install "garment-transfer[{extra}]"`, or '
                f'`pip install ".[{extra}]"` in a copy of the repository'
            )
        elif versions:
            listed = ", ".join(f"{package} {version}" for package, version in versions.items())
            yield f"extra {extra}: {listed}"
    yield "a transfer can run here" if findings["can_transfer"] else "a transfer CANNOT run here"
