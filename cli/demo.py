"""`garment-transfer demo`: a page to try it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from garment_transfer.cli.options import THREADS, THREADS_HELP, set_opencv_threads


@click.command("demo")
@click.option("--bundle", type=click.Path(path_type=Path), help="Default: the one in the package.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=["onnxruntime"],
    show_default=True,
    help="Inference backend; given more than once, they are timed side by side.",
)
@click.option("--threads", type=THREADS, help=THREADS_HELP)
@click.option(
    "--render",
    type=click.IntRange(min=0),
    default=0,
    help="Render so many more people; extra train.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
def command(
    bundle: Path | None,
    backends: tuple[str, ...],
    threads: int | None,
    render: int,
    host: str,
    port: int,
) -> None:
    """Serve a page on which people and garments are chosen, with the result and all its stages.

    The people in the package are there, and photos, bare or with maps, can be uploaded.
    """
    from garment_transfer import Pipeline, sample_bundle
    from garment_transfer.cli.page import built_in_people, launch, page, rendered_people

    try:
        rendered = rendered_people(render)
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f'--render needs the package {error.name}: run `pip install "garment-transfer[train]"`'
        ) from error
    bundle = bundle or sample_bundle()
    set_opencv_threads(threads)
    options = {} if threads is None else {"threads": threads}
    pipelines = {name: Pipeline.load(bundle, name, precision=None, **options) for name in backends}
    # Gradio keeps uploads and pictures as files: here, and gone with the page
    with tempfile.TemporaryDirectory(prefix="garment-transfer-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = page(pipelines, [*built_in_people(), *rendered])
        try:
            launch(blocks, host, port)
        except OSError as error:
            raise click.ClickException(
                f"{host}:{port} cannot be listened on; give another --port"
            ) from error
        click.echo(f"http://{host}:{port} is ready; Ctrl-C ends it")
        try:
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)
