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
    click.echo(json.dumps(findings, indent=2) if as_json else _describe(findings))
    context.exit(0 if findings["can_transfer"] else 1)


def _findings() -> dict[str, Any]:
    versions = installed_versions(package for _, _, package in _BASE)
    problems = {
        package: problem
        for module, attribute, package in _BASE
        if (problem := _import_problem(module, attribute))
    }
    # another package may provide the module, as opencv-python does cv2
    packages = {
        package: versions.get(package, None if package in problems else "unknown")
        for _, _, package in _BASE
    }
    missing = [package for package in problems if package not in versions]
    damaged = {package: problem for package, problem in problems.items() if package in versions}
    whole = not problems
    backends = _backends() if whole else []
    bundle_problem = _bundle_problem() if whole else ""
    engines = _engines() if whole else {}
    driver = _driver() if whole else {}
    return {
        "garment_transfer": package_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": _threads() if whole else None,
        "packages": packages,
        "missing": missing,
        "damaged": damaged,
        "backends": backends,
        "driver": driver,
        "engines": engines,
        "photos_library": _photos_library() if whole else None,
        "bundle_problem": bundle_problem,
        "extras": {extra: _packages_of(extra) for extra in _EXTRAS},
        "can_transfer": whole
        and not bundle_problem
        # the first is what a transfer takes unless told otherwise
        and bool(backends)
        and backends[0]["available"],
    }


def _import_problem(module: str, attribute: str) -> str:
    """Why a module cannot be used; empty where it can.

    One that is half removed, or was built for another NumPy, raises whatever it meets first, and
    NumPy prints a page about it.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            # what an uninstalled package left behind imports, and has nothing in it
            operator.attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    """An error in a line; of one that this package raises, what was wrong."""
    text = error.what if isinstance(error, GarmentTransferError) else str(error)
    kind = "" if isinstance(error, GarmentTransferError) else f"{type(error).__name__}: "
    return f"{kind}{text}".partition("\n")[0]


def _threads() -> int | None:
    from garment_transfer.runtime.backends import default_threads

    return default_threads()


def _backends() -> list[dict[str, Any]]:
    from garment_transfer.runtime.backends import BACKENDS, find_backend

    return [dataclasses.asdict(find_backend(name).status()) for name in BACKENDS]


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
    try:
        version = driver_version()
    except CudaError as error:
        found["reason"] = str(error)
    except Exception as error:  # whatever a damaged package of CUDA meets first
        found["reason"] = _reason(error)
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
    try:
        device = CudaDevice()
    except Exception as error:  # no GPU, or whatever a damaged package of CUDA meets first
        gpu["reason"] = _reason(error)
    else:
        gpu.update(name=device.name, compute_capability=device.compute_capability)
        if device.compute_capability not in RTX_COMPUTE_CAPABILITIES:
            gpu["reason"] = "TensorRT runs on it, TensorRT-RTX does not"
    backends = []
    for name in ENGINE_BACKENDS:
        found = {"name": name, "version": None, "builds": False, "reason": ""}
        try:
            found["version"] = tensorrt_module(name).__version__
        except BackendError as error:
            found["reason"] = str(error)
        except Exception as error:  # whatever a damaged package of TensorRT meets first
            found["reason"] = _reason(error)
        else:
            found["builds"] = name == "tensorrt-rtx" or gpu["name"] is not None
            if not found["builds"]:
                found["reason"] = "it builds engines on the GPU that they are for"
        backends.append(found)
    library = tensorrt_library()
    return {"gpu": gpu, "backends": backends, "plugin": str(library) if library else None}


def _photos_library() -> str | None:
    """Where the library of Fit and Compose is; None where there is none that loads."""
    from garment_transfer.kernels import photos, photos_library

    library = photos.load()
    if library is None:
        return None
    return f"{photos_library()}, {'with' if library.has_cuda else 'without'} CUDA"


def _bundle_problem() -> str:
    """What is wrong with the bundle in the package; empty where nothing is."""
    from garment_transfer.bundle import Bundle, BundleError
    from garment_transfer.runtime import sample_bundle

    try:
        Bundle.load(sample_bundle())
    except BundleError as error:
        return str(error)
    return ""


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


def _describe_driver(driver: dict[str, Any]) -> list[str]:
    version = driver["version"] or ("not found" if driver["cuda"] is None else "there")
    cuda = f", for CUDA {driver['cuda']}" if driver["cuda"] else ""
    reason = f": {driver['reason']}" if driver["reason"] else ""
    return [f"NVIDIA driver: {version}{cuda}{reason}", f"  needed on a GPU: {driver['needed']}"]


def _describe_engines(engines: dict[str, Any]) -> list[str]:
    gpu = engines["gpu"]
    lines = [f"GPU: none: {gpu['reason']}"]
    if gpu["name"] is not None:
        lines = [f"GPU: {gpu['name']}, compute capability {gpu['compute_capability']}"]
        if gpu["reason"]:
            lines.append(f"  {gpu['reason']}")
    for backend in engines["backends"]:
        version = f" {backend['version']}" if backend["version"] else ""
        can = "builds engines here" if backend["builds"] else f"builds none: {backend['reason']}"
        lines.append(f"build with {backend['name']}{version}: {can}")
    if engines["plugin"] is None:
        lines.append("FlowWarp's TensorRT plugin: not built; TensorRT then runs FlowWarp's body")
        lines.append(
            "  fix: install garment-transfer again where TensorRT_ROOT names TensorRT's headers "
            "and there is nvcc"
        )
    else:
        lines.append(f"FlowWarp's TensorRT plugin: {engines['plugin']}")
    return lines


def _describe(findings: dict[str, Any]) -> str:
    lines = [
        f"garment-transfer {findings['garment_transfer']}, Python {findings['python']}, "
        f"{findings['platform']}, {findings['cpu_cores']} CPU cores"
        + (f", {findings['threads']} threads by default" if findings["threads"] else ""),
        "packages: "
        + ", ".join(
            f"{name} {version or 'MISSING'}" for name, version in findings["packages"].items()
        ),
    ]
    if findings["missing"]:
        lines.append(f"  fix: run `pip install {' '.join(findings['missing'])}`")
    for package, problem in findings["damaged"].items():
        lines.append(f"{package} is installed, but cannot be used: {problem}")
        lines.append(f"  fix: run `{_again(package)}`")
    for backend in findings["backends"]:
        if backend["available"]:
            lines.append(f"backend {backend['name']} {backend['version']}: {backend['details']}")
        else:
            lines.append(f"backend {backend['name']}: cannot run: {backend['reason']}")
            lines.append(f"  fix: {backend['fix']}")
    if findings["driver"]:
        lines += _describe_driver(findings["driver"])
    if findings["engines"]:
        lines += _describe_engines(findings["engines"])
    if findings["backends"]:
        library = findings["photos_library"]
        lines.append(
            f"Fit and Compose in C++: {library or 'none; photos take several times as long'}"
        )
        if library is None:
            lines.append("  fix: install garment-transfer again where there is a C++ compiler")
        lines.append(f"bundle in the package: {findings['bundle_problem'] or 'whole'}")
    for extra, packages in findings["extras"].items():
        absent = [package for package, version in packages.items() if version is None]
        if absent:
            lines.append(f"extra {extra}: not installed: {', '.join(absent)}")
            lines.append(
                f'  fix: run `pip install "garment-transfer[{extra}]"`, or '
                f'`pip install ".[{extra}]"` in a copy of the repository'
            )
        elif packages:
            listed = ", ".join(f"{package} {version}" for package, version in packages.items())
            lines.append(f"extra {extra}: {listed}")
    lines.append(
        "a transfer can run here" if findings["can_transfer"] else "a transfer CANNOT run here"
    )
    return "\n".join(lines)
