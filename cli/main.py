"""The command group: loads a command's module when the command runs, and prints errors cleanly.

Nothing heavy is imported here, so `--help` and `--version` answer at once and work where half of
the packages are missing.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import signal
from types import ModuleType
from typing import Final

try:
    import click

    from garment_transfer.bundle import GarmentTransferError, installed_versions, package_version

    click.Group  # noqa: B018
# A package that is half removed may import and have nothing in it.
except (ImportError, AttributeError) as error:
    raise SystemExit(
        f"garment-transfer cannot start: {error}; run "
        "`pip install --force-reinstall --no-deps click msgspec`"
    ) from error

#: What is known of a command before its module is imported: its help, and the extra that it needs.
_COMMANDS: Final = {
    "transfer": ("Put the garment of one person on another.", "cpu"),
    "prepare": ("Make a person's folder from a photo, by your own models.", "cpu"),
    "demo": ("Serve a page to try it on.", "demo"),
    "inspect": ("Verify a bundle and say what is in it.", "cpu"),
    "doctor": ("Say what is installed and which backends can run here.", "cpu"),
    "export": ("Turn a checkpoint into a bundle.", "export"),
    "build": ("Add TensorRT engines to a bundle.", "rtx"),
    "triton": ("Write a model repository for NVIDIA Triton.", "triton"),
    "train": ("Train the networks on rendered people.", "train"),
    "evaluate": ("Measure the method and its baselines.", "train"),
    "render": ("Render people to train on.", "train"),
    "benchmark": ("Measure every backend side by side.", "benchmark"),
    "compare": ("Tell regressions between two results of benchmark.", "benchmark"),
    "profile": ("Say where the time of a transfer goes.", "benchmark"),
}


class _Group(click.Group):
    """A group that lists its commands from a table and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        # click sets this only once the command is there; an error of its import needs it before.
        ctx.invoked_subcommand = cmd_name
        module = importlib.import_module(f"garment_transfer.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> None:
        try:
            super().invoke(ctx)
        except (GarmentTransferError, OSError, ImportError, AttributeError) as error:
            message = _message(error, ctx.invoked_subcommand)
            if message is None or ctx.params["debug"]:
                raise
            raise click.ClickException(message) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_version(), prog_name="garment-transfer")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Garment transfer: two photos in, one out."""
    # as Ctrl-C does, so that what is being written is put away
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _message(error: Exception, command: str | None) -> str | None:
    """One line for an error that the user can fix; None for any other."""
    if isinstance(error, AttributeError):
        # What an uninstalled package left behind imports as an empty namespace package.
        if not isinstance(error.obj, ModuleType) or getattr(error.obj, "__file__", None):
            return None
        return f"{error}: its files are missing; run `garment-transfer doctor`"
    if isinstance(error, ImportError):
        package = (error.name or "").partition(".")[0]
        if command not in _COMMANDS:
            return None
        # NumPy says so of a package that was built for another version of it, and names none.
        if not isinstance(error, ModuleNotFoundError):
            return f"a package does not import ({error}); run `garment-transfer doctor`"
        if package in ("", "garment_transfer"):
            return None
        if package == "cv2" and installed_versions(["opencv-python-headless"]):
            return (
                "cv2 is gone, which opencv-python-headless brings and another package of OpenCV "
                "took along; run `pip install --force-reinstall --no-deps opencv-python-headless`"
            )
        extra = _COMMANDS[command][1]
        return (
            f"{command} needs the package {package}, which is not installed; run "
            f'`pip install "garment-transfer[{extra}]"`, or `pip install ".[{extra}]"` in a copy '
            "of the repository"
        )
    if isinstance(error, OSError):
        # A reader that went away (`| head`) is click's to handle.
        if error.errno == errno.EPIPE:
            return None
        if error.filename:
            return f"{error.filename}: {error.strerror}"
    return str(error)
