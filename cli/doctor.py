"""`garment-transfer doctor`: what is installed, what can run here, and what mends the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
from typing import Any, Final

import click

from garment_transfer.runtime.version import package_version

#: Packages that commands need beyond the base installation, by extra, where the package runs from
#: a tree that is not installed and has no metadata to say so.
_EXTRAS: Final = {
    "demo": ("gradio",),
    "export": ("torch", "filelock", "onnx", "onnxscript", "safetensors"),
    "train": (
        "torch",
        "anny",
        "filelock",
        "safetensors",
        "scipy",
        "tensorboard",
        "torchmetrics",
        "warp-lang",
    ),
    "serve": ("fastapi", "httpx", "prometheus-client", "python-multipart", "uvicorn"),
}

_BASE: Final = (
    ("numpy", "numpy"),
    ("cv2", "opencv-python-headless"),
    ("PIL", "pillow"),
    ("jsonschema", "jsonschema"),
    ("click", "click"),
    ("tqdm", "tqdm"),
)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Say what is installed, which backends can run here, and what mends those that cannot.

    The exit status is 1 when a transfer cannot run.
    """
    findings = _findings()
    click.echo(json.dumps(findings, indent=2) if as_json else _describe(findings))
    context.exit(0 if findings["can_transfer"] else 1)


def _findings() -> dict[str, Any]:
    packages = {package: _version(module, package) for module, package in _BASE}
    missing = [package for package, version in packages.items() if version is None]
    backends = [] if missing else _backends()
    bundle_problem = "" if missing else _bundle_problem()
    return {
        "garment_transfer": package_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "packages": packages,
        "missing": missing,
        "backends": backends,
        "bundle_problem": bundle_problem,
        "extras": {
            extra: {package: _installed(package) for package in _packages_of(extra)}
            for extra in _EXTRAS
        },
        "can_transfer": not missing
        and not bundle_problem
        and any(backend["available"] for backend in backends),
    }


def _backends() -> list[dict[str, Any]]:
    import dataclasses

    from garment_transfer.runtime.backends import BACKENDS, find_backend

    return [dataclasses.asdict(find_backend(name).status()) for name in BACKENDS]


def _bundle_problem() -> str:
    """What is wrong with the bundle in the package; empty where nothing is."""
    from garment_transfer.runtime import Bundle, BundleError, sample_bundle

    try:
        Bundle.load(sample_bundle())
    except BundleError as error:
        return str(error)
    return ""


def _packages_of(extra: str) -> tuple[str, ...]:
    """The packages of an extra by the metadata of the installed package."""
    try:
        requirements = importlib.metadata.requires("garment-transfer") or []
    except importlib.metadata.PackageNotFoundError:
        return _EXTRAS[extra]
    # Such as `torch>=2.9; extra == "train"`.
    pattern = re.compile(rf"([\w.-]+).*;.*\bextra\s*==\s*[\"']{extra}[\"'].*")
    return tuple(match[1] for match in map(pattern.fullmatch, requirements) if match)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version(module: str, package: str) -> str | None:
    """The version of an installed package; None where its module cannot be found."""
    if importlib.util.find_spec(module) is None:
        return None
    # Another package may provide the module, as opencv-python does cv2.
    return _installed(package) or "unknown"


def _describe(findings: dict[str, Any]) -> str:
    lines = [
        f"garment-transfer {findings['garment_transfer']}, Python {findings['python']}, "
        f"{findings['platform']}, {findings['cpu_cores']} CPU cores",
        "packages: "
        + ", ".join(
            f"{name} {version or 'MISSING'}" for name, version in findings["packages"].items()
        ),
    ]
    if findings["missing"]:
        lines.append(f"  mend: run `pip install {' '.join(findings['missing'])}`")
    for backend in findings["backends"]:
        if backend["available"]:
            lines.append(f"backend {backend['name']} {backend['version']}: {backend['details']}")
        else:
            lines.append(f"backend {backend['name']}: cannot run: {backend['reason']}")
            lines.append(f"  mend: {backend['remedy']}")
    if not findings["missing"]:
        lines.append(f"bundle in the package: {findings['bundle_problem'] or 'whole'}")
    for extra, packages in findings["extras"].items():
        absent = [package for package, version in packages.items() if version is None]
        if absent:
            lines.append(f"extra {extra}: not installed: {', '.join(absent)}")
            lines.append(
                f'  mend: run `pip install "garment-transfer[{extra}]"`, or '
                f'`pip install ".[{extra}]"` in a copy of the repository'
            )
        else:
            listed = ", ".join(f"{package} {version}" for package, version in packages.items())
            lines.append(f"extra {extra}: {listed}")
    lines.append(
        "a transfer can run here" if findings["can_transfer"] else "a transfer CANNOT run here"
    )
    return "\n".join(lines)
