"""`garment-transfer inspect`: what is in a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from msgspec import to_builtins

from garment_transfer.bundle import (
    MAPS,
    Bundle,
    Checkpoint,
    EngineRecord,
    Graph,
    Parity,
    list_engines,
)
from garment_transfer.runtime import sample_bundle


@click.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle: Path | None, as_json: bool) -> None:
    """Verify BUNDLE, its sizes and hashes included, and say what is in it.

    Without BUNDLE it is the one that ships in the package.
    """
    loaded = Bundle.load(bundle or sample_bundle())
    engines = list_engines(loaded)
    if as_json:
        click.echo(json.dumps({"path": str(loaded.path), **to_builtins(loaded.manifest)}, indent=2))
        return
    for line in describe(loaded):
        click.echo(line)
    for each in engines:
        click.echo(_engines(each.path.name, each.record))


def describe(bundle: Bundle) -> Iterator[str]:
    """What is in a bundle, line by line."""
    manifest = bundle.manifest
    checkpoint = manifest.checkpoint
    yield f"{bundle.path}: bundle {manifest.name}, valid (sizes and SHA-256 match the manifest)"
    yield (
        f"  created     {manifest.created} by {manifest.producer.package} "
        f"{manifest.producer.version}"
    )
    yield (
        f"  size        {manifest.size} (height x width), {manifest.precision}, "
        f"opset {manifest.opset}, schema version {manifest.schema_version}"
    )
    framing = manifest.framing
    yield (
        f"  framing     DensePose parts {', '.join(map(str, framing.parts))}, "
        f"legs {framing.legs:g}, margin {framing.margin:g}"
    )
    yield f"  classes     {', '.join(manifest.classes)}"
    yield (
        f"  checkpoint  preset {checkpoint.preset}, {sum(checkpoint.parameters.values()):,} "
        f"parameters, sha256 {checkpoint.sha256}"
    )
    yield f"  versions    {', '.join(f'{name} {text}' for name, text in manifest.versions.items())}"
    graphs: dict[str, tuple[Graph, Mapping[str, Parity], Checkpoint]] = {
        stage: (graph, manifest.parity[stage], checkpoint)
        for stage, graph in manifest.graphs.items()
    }
    if manifest.maps is not None:
        graphs[MAPS] = manifest.maps, manifest.maps.parity, manifest.maps.checkpoint
    for name, (graph, parities, source) in graphs.items():
        yield f"\n{_graph(name, graph)}, {source.parameters.get(name, 0):,} parameters"
        yield f"  sha256      {graph.sha256}"
        yield from (f"  input       {tensor}" for tensor in graph.inputs)
        yield from (f"  output      {tensor}" for tensor in graph.outputs)
        for output, parity in parities.items():
            yield (
                f"  parity      {output}: max abs difference {parity.max_abs_difference:g}; "
                f"{parity.share_within_tolerance:.4%} within {parity.tolerance:g} "
                f"({parity.inputs})"
            )
    for precision, variant in manifest.variants.items():
        accuracy = variant.accuracy
        yield f"\nvariant {precision}"
        yield from (f"  {_graph(stage, graph)}" for stage, graph in variant.graphs.items())
        yield (
            f"  against {manifest.precision}: {accuracy.different_labels:.4%} of labels differ, "
            f"PSNR of image {accuracy.image_psnr:.1f} dB, of warped_garment "
            f"{accuracy.warped_garment_psnr:.1f} dB, flow within {accuracy.flow_difference:.2g} "
            f"pixels; largest activation {accuracy.largest_activation:.4g} ({accuracy.inputs})"
        )


def _graph(stage: str, graph: Graph) -> str:
    return f"graph {stage}: {graph.file}, {graph.bytes:,} bytes"


def _engines(folder: str, record: EngineRecord) -> str:
    return (
        f"\nengines {folder}: {record.backend} {record.backend_version}, compute capability "
        f"{', '.join(record.compute_capabilities)}, batch {record.batch}, optimization level "
        f"{record.optimization_level}, FlowWarp "
        f"{f'by plugin {record.plugin}' if record.plugin else 'by its function body'}, built "
        f"{record.built}"
    )
