"""The first hour on a GPU: what a machine can show, in pieces for one that is lent for minutes.

    python -m garment_transfer.benchmarks.gpu run FOLDER [PIECE...] [--rehearse]

From a checkout. gpu.toml has the pieces: each takes nine minutes at most, and is made of steps,
commands in processes of their own with a limit. FOLDER/PIECE.json is written anew whenever a step
begins or ends, and holds what the steps' own results say; these and what the steps print are in
FOLDER/PIECE. What a machine lacks is named, and the steps that need it are left out. `--rehearse`
runs every step without a GPU: ONNX Runtime on the CPU in place of its CUDA provider, TensorRT-RTX's
builder in place of TensorRT's. Its figures are the CPU's.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

_PATH = click.Path(path_type=Path)

#: Seconds of a step's time in which it writes what it measured; a quarter where that is less.
_GRACE: Final = 30


@dataclass(frozen=True)
class Step:
    """A command with its limit, and what it needs of the machine, as `obstacles` names it."""

    piece: str
    name: str
    minutes: float
    needs: Sequence[str]
    command: str


def read_steps() -> tuple[list[Step], dict[str, str], dict[str, str]]:
    """The steps, what their commands are filled in with, and what of that differs in rehearsals."""
    with Path(__file__).with_suffix(".toml").open("rb") as file:
        table = tomllib.load(file)
    return [Step(**step) for step in table["steps"]], table["settings"], table["rehearsed"]


def obstacles(rehearse: bool) -> dict[str, str]:
    """Why a need of a step is not met, for each that is not."""
    from garment_transfer.bundle import BackendError
    from garment_transfer.kernels import has_cuda_kernels, onnxruntime_library
    from garment_transfer.runtime.backends import find_backend
    from garment_transfer.runtime.backends.tensorrt import tensorrt_module
    from garment_transfer.runtime.cuda import CudaDevice

    # a rehearsal needs no compiler for GPUs and nothing to look into their memory
    tools = ("cmake",) if rehearse else ("cmake", "nvcc", "compute-sanitizer")
    found = {tool: f"{tool} is not on PATH" for tool in tools if shutil.which(tool) is None}
    if not Path("tests/gpu").is_dir():
        found["tests"] = "the working folder is not a checkout"
    library = onnxruntime_library()
    if library and has_cuda_kernels(library) and not rehearse:
        found["no kernels"] = f"{library.name} is built for GPUs already"
    if "ONNXRUNTIME_ROOT" not in os.environ:
        found["headers"] = "ONNXRUNTIME_ROOT names no ONNX Runtime headers"
    needs: dict[str, Callable[[], object]] = {
        "tensorrt-rtx": lambda: tensorrt_module("tensorrt-rtx")
    }
    if not rehearse:
        needs["gpu"] = CudaDevice
        for backend in ("onnxruntime-cuda", "tensorrt"):
            needs[backend] = find_backend(backend).status
    for name, check in needs.items():
        try:
            status = check()
        except BackendError as error:
            found[name] = str(error)
        else:
            if not getattr(status, "available", True):
                found[name] = getattr(status, "reason", "")
    return found


def fill_in(step: Step, settings: Mapping[str, str], result: Path, bundle: Path) -> list[str]:
    """A step's command, which writes its result to FOLDER/PIECE/STEP.json, an absolute path."""
    out, folder = result.parents[:2]
    paths = {"json": result, "bundle": bundle, "folder": folder, "out": out}
    paths["python"] = Path(sys.executable)
    filled = {name: shlex.quote(str(path)) for name, path in paths.items()}
    filled["name"] = step.name
    for name, value in settings.items():  # each may hold those before it
        filled[name] = value.format(**filled)
    return shlex.split(step.command.format(**filled))


def run_command(command: Sequence[str], log: Path, seconds: float) -> str:
    """Runs a command; what became of it: passed, failed or stopped.

    What it prints goes to `log`. Shortly before its time is over, or when Ctrl-C comes, it is
    interrupted as by Ctrl-C, which lets it write what it has, and then killed, with all processes
    that it started.
    """
    # what runs in the background ignores Ctrl-C, and so would all that it starts
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    grace = min(_GRACE, seconds / 4)
    try:
        process.wait(seconds - grace)
        return "passed" if process.returncode == 0 else f"failed with status {process.returncode}"
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stopped:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        if isinstance(stopped, KeyboardInterrupt):
            raise
        return f"stopped after {seconds - grace:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@click.group()
def main() -> None:
    """The first hour on a GPU."""


@main.command()
@click.argument("folder", type=_PATH)
@click.argument("names", metavar="[PIECE | PIECE/STEP]...", nargs=-1)
@click.option("--bundle", type=_PATH, help="Bundle to run; default: the one in the package.")
@click.option("--rehearse", is_flag=True, help="Run every step without a GPU.")
@click.pass_context
def run(
    context: click.Context,
    folder: Path,
    names: tuple[str, ...],
    bundle: Path | None,
    rehearse: bool,
) -> None:
    """Run pieces, or steps of them, and write FOLDER/PIECE.json; all that the machine can run.

    Steps that are there from an earlier run and not run now are kept. The exit status is 1 where a
    step fails, or is stopped at its limit.
    """
    from garment_transfer.benchmarks.measuring import environment, write_json
    from garment_transfer.bundle import now
    from garment_transfer.runtime import sample_bundle
    from garment_transfer.runtime.cuda import CudaDevice

    steps, settings, rehearsed = read_steps()
    known = {name for step in steps for name in (step.piece, f"{step.piece}/{step.name}")}
    if unknown := set(names) - known:
        raise click.UsageError(f"no piece or step {', '.join(sorted(unknown))}")
    # a scheduler's stop is the keyboard's: what was measured is kept
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = {**settings, **(rehearsed if rehearse else {}), "architecture": "90"}
    missing = obstacles(rehearse)
    machine = "rehearsal without a GPU" if rehearse else "no GPU"
    if not rehearse and "gpu" not in missing:
        device = CudaDevice()
        settings["architecture"] = device.compute_capability.replace(".", "")
        machine = f"{device.name}, compute capability {device.compute_capability}"
    click.echo("\n".join([machine, *(f"not here: {name}: {why}" for name, why in missing.items())]))
    bundle = (bundle or sample_bundle()).resolve()
    pieces: dict[str, dict[str, Any]] = {}
    outcomes = []
    for step in steps:
        if names and not {step.piece, f"{step.piece}/{step.name}"} & set(names):
            continue
        if step.piece not in pieces:
            (folder / step.piece).mkdir(parents=True, exist_ok=True)
            about = {"machine": machine, "missing": missing, "environment": environment()}
            before = folder / f"{step.piece}.json"
            done = json.loads(before.read_text("utf-8"))["steps"] if before.is_file() else {}
            pieces[step.piece] = {**about, "rehearsal": rehearse, "steps": done}
        found: dict[str, Any] = {"begun": now()}
        pieces[step.piece]["steps"][step.name] = found
        result = folder.resolve() / step.piece / f"{step.name}.json"
        log = result.with_suffix(".log")
        for old in (result, log):
            old.unlink(missing_ok=True)
        try:
            if lacking := [missing[need] for need in step.needs if need in missing]:
                found["outcome"] = "left out: " + "; ".join(lacking)
                continue
            command = fill_in(step, settings, result, bundle)
            found |= {"command": shlex.join(command), "outcome": "running"}
            write_json(folder / f"{step.piece}.json", pieces[step.piece])
            start = time.monotonic()
            found["outcome"] = run_command(command, log, 60 * step.minutes)
            found["seconds"] = round(time.monotonic() - start, 1)
            outcomes.append(found["outcome"])
        except KeyboardInterrupt:
            found["outcome"] = "interrupted"
            raise
        finally:
            with suppress(OSError, ValueError):
                found["printed"] = log.read_text("utf-8", "replace").splitlines()[-30:]
                found["result"] = json.loads(result.read_text("utf-8"))
            write_json(folder / f"{step.piece}.json", pieces[step.piece])
            for line in found.get("printed", [])[-12:]:
                click.echo(line)
            took = f" in {found['seconds']} s" if "seconds" in found else ""
            click.echo(f"== {step.piece}/{step.name}: {found['outcome']}{took}")
    context.exit(int(any(outcome != "passed" for outcome in outcomes)))


@main.command()
@click.option("--bundle", type=_PATH, required=True)
@click.option("--json", "json_file", type=_PATH, required=True)
def rtx(bundle: Path, json_file: Path) -> None:
    """See whether TensorRT-RTX takes this GPU, be it named among those that it supports or not."""
    from garment_transfer.benchmarks.measuring import write_json
    from garment_transfer.bundle import STAGES, Bundle
    from garment_transfer.export.tensorrt import build_engines, copy_bundle
    from garment_transfer.runtime.backends.tensorrt import (
        gathering_errors,
        logger_of,
        tensorrt_module,
    )

    trt = tensorrt_module("tensorrt-rtx")
    with tempfile.TemporaryDirectory(prefix="garment-transfer-") as folder:
        copy = copy_bundle(Bundle.load(bundle), Path(folder) / "bundle")
        engines = build_engines(copy, "tensorrt-rtx", optimization_level=0)
        plan = engines.read_plan(STAGES[0])
    with gathering_errors(trt) as errors:
        engine = trt.Runtime(logger_of(trt)).deserialize_cuda_engine(plan)
        context = engine.create_execution_context() if engine else None
        result = {
            "version": trt.__version__,
            "engine": engine is not None,
            "context": context is not None,
            "errors": list(errors),
        }
    write_json(json_file, result)
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
