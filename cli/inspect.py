"""`garment-transfer inspect`: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

if TYPE_CHECKING:
    from garment_transfer.bundle import Bundle


@click.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(bundle: Path | None, as_json: bool) -> None:
    """Verify BUNDLE, its sizes and hashes included, and say what is in it.

    Without BUNDLE it is the one that ships in the package.
    """
    from garment_transfer.bundle import Bundle
    from garment_transfer.runtime import sample_bundle

    loaded = Bundle.load(bundle or sample_bundle())
    if as_json:
        click.echo(json.dumps({"path": str(loaded.path), **to_builtins(loaded.manifest)}, indent=2))
    else:
        click.echo(_describe(loaded))


def _describe(bundle: Bundle) -> str:
    from garment_transfer.bundle import list_engines

    manifest = bundle.manifest
    parameters = manifest.checkpoint.parameters
    lines = [
        f"{bundle.path}: bundle {manifest.name}, whole (sizes and hashes agree)",
        f"  written   {manifest.created} by {manifest.producer.package} "
        f"{manifest.producer.version}",
        f"  size      {manifest.size} (height x width), {manifest.precision}, "
        f"opset {manifest.opset}, schema {manifest.schema_version}",
        f"  classes   {', '.join(manifest.classes)}",
        f"  weights   preset {manifest.checkpoint.preset}, {sum(parameters.values()):,} "
        f"parameters, checkpoint sha256 {manifest.checkpoint.sha256}",
        f"  versions  {', '.join(f'{name} {text}' for name, text in manifest.versions.items())}",
    ]
    for stage, graph in manifest.graphs.items():
        lines += [
            "",
            f"graph {stage}: {graph.file}, {graph.bytes:,} bytes, "
            f"{parameters.get(stage, 0):,} parameters",
            f"  sha256    {graph.sha256}",
            *(f"  input     {tensor}" for tensor in graph.inputs),
            *(f"  output    {tensor}" for tensor in graph.outputs),
        ]
        lines += [
            f"  parity    {name}: largest difference {parity.max_abs_difference:g}; "
            f"{parity.share_within_tolerance:.4%} within {parity.tolerance:g} ({parity.inputs})"
            for name, parity in manifest.parity[stage].items()
        ]
    for precision, variant in manifest.variants.items():
        accuracy = variant.accuracy
        lines += [
            "",
            *(
                f"{precision} graph {stage}: {graph.file}, {graph.bytes:,} bytes"
                for stage, graph in variant.graphs.items()
            ),
            f"  against float32: {accuracy.different_labels:.4%} of labels differ, PSNR of image "
            f"{accuracy.image_psnr:.1f} dB, of warped_garment "
            f"{accuracy.warped_garment_psnr:.1f} dB, flow within "
            f"{accuracy.flow_difference:.2g} pixels ({accuracy.inputs})",
        ]
    for engines in list_engines(bundle):
        record = engines.record
        plugin = record.plugin
        warp = "inlined" if plugin is None else f"by plugin {plugin.name} {plugin.version}"
        lines += [
            "",
            f"engines {engines.path.name}: {record.backend} {record.backend_version}, compute "
            f"capability {', '.join(record.compute_capabilities)}, batch {record.batch}, "
            f"optimization level {record.optimization_level}, FlowWarp {warp}, built "
            f"{record.built}",
        ]
    return "\n".join(lines)
