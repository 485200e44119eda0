"""`garment-transfer transfer`: one pair, the sample pair, or a list of pairs."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from garment_transfer.bundle import PRECISIONS
from garment_transfer.cli.options import (
    BOX,
    BOX_HELP,
    SHARD,
    THREADS,
    THREADS_HELP,
    set_opencv_threads,
)

if TYPE_CHECKING:
    from garment_transfer.bundle import Precision
    from garment_transfer.runtime import Pair, Pipeline
    from garment_transfer.runtime.photos import Box, Person

_PATH = click.Path(path_type=Path)

#: Seconds between two lines of progress in a log.
_PROGRESS = 5.0


@click.command("transfer")
@click.argument("person", type=_PATH, required=False)
@click.argument("garment_owner", type=_PATH, required=False)
@click.option("-o", "--output", type=_PATH, help="Picture to write.")
@click.option("--panel", type=_PATH, help="Picture to write of all steps side by side.")
@click.option("--sample", is_flag=True, help="Transfer between the two people in the package.")
@click.option(
    "--pairs",
    type=_PATH,
    help="CSV of pairs with the header person,garment_owner,output, or - for standard input; paths "
    "start from its folder.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Pairs that share a run; default: 1. More pay on GPUs, not on the CPU.",
)
@click.option(
    "--resume", is_flag=True, help="Leave pairs out whose output is newer than both people."
)
@click.option(
    "--shard", type=SHARD, help="Part I, from 0, of N of the list: one machine's share of it."
)
@click.option("--bundle", type=_PATH, help="Bundle to run; default: the one in the package.")
@click.option(
    "--backend",
    default="onnxruntime",
    show_default=True,
    help="Inference backend, which `garment-transfer doctor` lists, or auto: engines that fit this "
    "GPU, else ONNX Runtime on CUDA, else on the CPU.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Precision of the graphs or engines; default: the bundle's main one.",
)
@click.option(
    "--rebuild-if-needed",
    is_flag=True,
    help="Build TensorRT engines that are missing or do not fit this machine.",
)
@click.option("--threads", type=THREADS, help=THREADS_HELP)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="Quality of JPEG and WebP; PNG keeps every pixel.",
)
@click.option("--person-box", type=BOX, help=BOX_HELP)
@click.option("--owner-box", type=BOX, help="The same in the garment owner's photo.")
@click.option("--label-set", help="Label set of the parse maps, in place of meta.json's.")
@click.option("--densepose", help="Encoding of the DensePose files, in place of meta.json's.")
@click.pass_context
def command(
    context: click.Context,
    person: Path | None,
    garment_owner: Path | None,
    output: Path | None,
    panel: Path | None,
    sample: bool,
    pairs: Path | None,
    batch: int | None,
    resume: bool,
    shard: tuple[int, int] | None,
    bundle: Path | None,
    backend: str,
    precision: Precision | None,
    rebuild_if_needed: bool,
    threads: int | None,
    quality: int,
    person_box: Box | None,
    owner_box: Box | None,
    label_set: str | None,
    densepose: str | None,
) -> None:
    """Put the garment of one person on another.

    PERSON receives the garment that GARMENT_OWNER wears. Each is a photo, or a folder with image.*
    and maps of other models: parse.png, densepose.* and meta.json, which names the label set of the
    parse map and the encoding of DensePose, such as {"parse": "cihp20", "densepose": "iuv"}. The
    picture is PNG, JPEG, WebP or BMP by its name, in sRGB, without the photos' metadata (place,
    camera, date).
    """
    if sum(map(bool, (person, sample, pairs))) != 1:
        raise click.UsageError("Give either PERSON and GARMENT_OWNER, or --sample, or --pairs.")
    if person and not garment_owner:
        raise click.UsageError("Missing argument 'GARMENT_OWNER': who wears the garment now.")
    if pairs and (output or panel):
        raise click.UsageError("-o and --panel are for one pair; --pairs names its own outputs.")
    if not (person and garment_owner) and (person_box or owner_box):
        raise click.UsageError("--person-box and --owner-box are for PERSON and GARMENT_OWNER.")
    if not pairs and (batch or resume or shard):
        raise click.UsageError("--batch, --resume and --shard are for --pairs.")
    if not pairs and not output:
        raise click.UsageError("Missing option '-o': the picture to write.")

    from garment_transfer.bundle import remove_unfinished
    from garment_transfer.runtime import (
        Pair,
        check_outputs,
        is_done,
        read_pairs,
        sample_bundle,
        sample_people,
        shard as part_of,
    )
    from garment_transfer.runtime.photos import check_output

    # Lists and outputs are checked before anything slow is loaded or run.
    rows = read_pairs(pairs) if pairs else []
    if shard:
        rows = part_of(rows, *shard)
    missing = [row for row in rows if not (resume and is_done(row))]
    for folder in {row.output.parent for row in rows}:
        remove_unfinished(str(folder))
    if sample:
        person, garment_owner = sample_people()
    others = [path for path in (panel,) if path]
    for path in (output, *others):
        if path:
            check_output(path)
    if output and person and garment_owner:
        check_outputs([Pair(person, garment_owner, output)], *others)
    else:
        check_outputs(rows)
    failed = 0
    if missing or not pairs:
        pipeline = _load(bundle or sample_bundle(), backend, precision, rebuild_if_needed, threads)
        if output and person and garment_owner:
            sources, boxes = (person, garment_owner), (person_box, owner_box)
            with ThreadPoolExecutor(2) as pool:  # decoders run side by side
                receiver, owner = pool.map(
                    lambda source, box: pipeline.person(source, label_set, densepose, box),
                    sources,
                    boxes,
                )
            _transfer(pipeline, (receiver, owner), output, panel, quality)
        else:
            failed = _transfer_all(pipeline, missing, batch or 1, label_set, densepose, quality)
    if pairs:
        there = f", {len(rows) - len(missing)} were there" if resume else ""
        click.echo(f"{len(missing) - failed} of {len(rows)} pairs written{there}, {failed} failed")
        context.exit(1 if failed else 0)


def _load(
    path: Path, backend: str, precision: Precision | None, rebuild: bool, threads: int | None
) -> Pipeline:
    """The pipeline; what the package logs of its choice of a backend is printed."""
    from garment_transfer.bundle import ENGINE_BACKENDS, Bundle
    from garment_transfer.runtime import Pipeline

    log = logging.getLogger("garment_transfer")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO if backend == "auto" else logging.WARNING)
    bundle = Bundle.load(path)
    for name in ENGINE_BACKENDS:
        if rebuild and name == backend:
            from garment_transfer.export.tensorrt import ensure_engines

            bundle = ensure_engines(bundle, name, precision)
    set_opencv_threads(threads)
    options = {} if threads is None else {"threads": threads}
    return Pipeline.load(bundle, backend, precision=precision, **options)


def _transfer_all(
    pipeline: Pipeline,
    pairs: list[Pair],
    batch: int,
    label_set: str | None,
    densepose: str | None,
    quality: int,
) -> int:
    """Transfers every pair, reports those that fail, and returns how many did."""
    from tqdm import tqdm

    from garment_transfer.runtime import transfer_pairs

    done = failed = 0
    start = said = time.monotonic()
    outcomes = transfer_pairs(
        pipeline,
        pairs,
        batch=batch,
        label_set=label_set,
        densepose_encoding=densepose,
        quality=quality,
    )
    with tqdm(outcomes, total=len(pairs), unit="pair", disable=None) as bar:
        try:
            for outcome in bar:
                done += 1
                if outcome.error:
                    failed += 1
                    bar.clear()
                    said_by = (
                        ""
                        if str(outcome.pair.output) in str(outcome.error)
                        else f"{outcome.pair.output}: "
                    )
                    click.echo(f"Error: {said_by}{outcome.error}", err=True)
                if bar.disable and time.monotonic() - said > _PROGRESS:  # a log has no bar
                    said = time.monotonic()
                    click.echo(f"{done} of {len(pairs)} pairs in {said - start:.0f} s", err=True)
        except (KeyboardInterrupt, SystemExit):  # SIGTERM ends it as Ctrl-C does
            bar.close()
            click.echo(
                f"stopped after {done} of {len(pairs)} pairs; --resume goes on with the others",
                err=True,
            )
            raise
    return failed


def _transfer(
    pipeline: Pipeline,
    people: tuple[Person, Person],
    output: Path,
    panel_path: Path | None,
    quality: int,
) -> None:
    """Transfers one pair and writes its pictures, whose paths were checked."""
    from garment_transfer.runtime import panel, pictures_of
    from garment_transfer.runtime.photos import check_written_side, write_rgb

    if panel_path:
        # Before anything is run and written. The picture alone fits into every format.
        height, width = people[0].parsing.shape
        check_written_side(panel_path, height, pictures_of(*people) * width)
    transfer = pipeline.transfer(*people)
    write_rgb(output, transfer.image, quality)
    height, width = transfer.transfer_parsing.shape
    click.echo(f"{output}: {width}x{height} pixels in {sum(transfer.timings.values()):.0f} ms")
    if panel_path:
        write_rgb(panel_path, panel(*people, transfer), quality)
