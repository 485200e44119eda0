import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from garment_transfer.bundle import InputError
from garment_transfer.cli import main as main_module
from garment_transfer.cli.main import main

HEAVY = (
    "anny",
    "cv2",
    "gradio",
    "jsonschema",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "PIL",
    "psutil",
    "torch",
    "tqdm",
    "warp",
)

COMMANDS = (
    "transfer",
    "prepare",
    "demo",
    "inspect",
    "doctor",
    "export",
    "build",
    "triton",
    "train",
    "evaluate",
    "render",
    "benchmark",
    "compare",
    "profile",
)


def imported_by(*arguments: str) -> tuple[str, set[str]]:
    """What a child process prints for a command line, and the heavy packages it imported."""
    code = (
        "import sys\n"
        "from garment_transfer.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print('imported:', *sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    modules = done.stderr.partition("imported:")[2].split()
    return done.stdout, {name.partition(".")[0] for name in modules} & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("-h",), ("--version",), *((name, "--help") for name in COMMANDS)],
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    output, heavy = imported_by(*arguments)
    assert output
    assert not heavy


def test_help_lists_the_commands() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for name in COMMANDS:
        assert f"  {name} " in output


def test_the_commands_are_those_of_the_table() -> None:
    assert tuple(main_module._COMMANDS) == COMMANDS


def test_unknown_command() -> None:
    result = CliRunner().invoke(main, ["transfr"])
    assert result.exit_code == 2
    assert "No such command 'transfr'" in result.output


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes the command `doctor` raise."""

    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr("garment_transfer.cli.doctor.command", command)


@pytest.mark.parametrize(
    ("error", "due"),
    [
        (InputError("a is wrong; do b"), "Error: a is wrong; do b\n"),
        (PermissionError(13, "Permission denied", "x.png"), "Error: x.png: Permission denied\n"),
        (OSError("odd"), "Error: odd\n"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            "Error: doctor needs the package torch, which is not installed; run "
            '`pip install "garment-transfer[cpu]"`, or `pip install ".[cpu]"` in a copy of the '
            "repository\n",
        ),
    ],
)
def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, due: str) -> None:
    fail_with(monkeypatch, error)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.output == due


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    error = InputError("a is wrong")
    fail_with(monkeypatch, error)
    result = CliRunner().invoke(main, ["--debug", "doctor"])
    assert result.exception is error


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), ModuleNotFoundError("x")])
def test_defects_are_not_dressed_up(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fail_with(monkeypatch, error)
    assert CliRunner().invoke(main, ["doctor"]).exception is error


def test_a_command_whose_import_lacks_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise ModuleNotFoundError("No module named 'anny'", name="anny")

    monkeypatch.setattr(main_module.importlib, "import_module", import_module)
    result = CliRunner().invoke(main, ["render"])
    assert result.exit_code == 1
    assert "render needs the package anny" in result.output
    assert 'pip install ".[train]"' in result.output
