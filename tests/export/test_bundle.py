"""Exported graphs against the networks, and what may not become a bundle."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from garment_transfer.bundle import (
    STAGES,
    Bundle,
    Code,
    ExportError,
    Framing,
    OutputError,
    Size,
    chained,
    contract,
)
from garment_transfer.export.bundle import export_bundle, load_factory
from garment_transfer.models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from garment_transfer.models.presets import PRESETS, build_network
from garment_transfer.runtime import Pipeline


@pytest.mark.parametrize("batch", [1, 3])
def test_graphs_agree_with_torch_for_any_batch(bundle, networks, random_inputs, batch):
    signatures = contract(bundle.manifest.size)
    given = random_inputs(bundle.manifest.size, batch)
    inputs = {tensor.name: given[tensor.name] for tensor in chained(signatures.values()).inputs}
    # graph by graph, on the pipeline's own intermediate results
    values = inputs | Pipeline.load(bundle, threads=2).run(inputs)
    for stage, signature in signatures.items():
        arguments = [torch.from_numpy(values[tensor.name]) for tensor in signature.inputs]
        with torch.inference_mode():
            results = networks[stage](*arguments)
        results = results if isinstance(results, tuple) else (results,)
        for tensor, expected in zip(signature.outputs, results, strict=True):
            difference = np.abs(values[tensor.name].astype(float) - expected.numpy())
            limit = {"transfer_parsing": 0, "flow": 0.05}.get(tensor.name, 1)
            assert (difference <= limit).mean() >= 0.999, tensor.name


def test_flow_warp_stays_one_node_with_a_body(bundle):
    model = onnx.load(bundle.graph_path("warping"))
    nodes = [node for node in model.graph.node if node.domain == "garment_transfer"]
    # five levels and the final sampling
    assert [node.op_type for node in nodes] == ["FlowWarp"] * 6
    (function,) = model.functions
    assert (function.domain, function.name) == ("garment_transfer", "FlowWarp")
    (sample,) = [node for node in function.node if node.op_type == "GridSample"]
    modes = {a.name: a.s for a in sample.attribute if a.name == "mode"}
    assert modes == {"mode": b"bilinear"}
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "garment_transfer": 1}
    assert not any(node.op_type == "GridSample" for node in model.graph.node)


def test_graphs_hold_nothing_of_the_machine_that_made_them(bundle):
    for stage in STAGES:
        content = bundle.graph_path(stage).read_bytes()
        assert b"site-packages" not in content
        assert str(Path(__file__).parents[2]).encode() not in content
        model = onnx.load(bundle.graph_path(stage))
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_comparison_is_said_and_recorded(exported):
    bundle, output = exported
    assert "flow: max abs difference" in output
    manifest = Bundle.load(bundle.path).manifest
    assert manifest.parity["regrowth"]["image"].inputs.startswith("1 pairs of people")
    assert set(manifest.parity) == set(STAGES)
    assert manifest.parity["warping"]["flow"].share_within_tolerance >= 0.999
    assert manifest.checkpoint.preset == "lite"
    assert sum(manifest.checkpoint.parameters.values()) <= 2_300_000
    assert manifest.versions["torch"] == torch.__version__


def test_a_bundle_says_how_other_networks_were_framed(checkpoint, plain_networks, tmp_path):
    framing = Framing((1, 2), legs=0.5, margin=0.25)
    bundle = export_bundle(
        checkpoint,
        tmp_path / "bundle",
        size=Size(32, 32),
        framing=framing,
        factory=lambda path: ("plain", plain_networks),
    )
    assert Bundle.load(bundle.path).manifest.framing == framing


class _Dishonest(nn.Module):
    """A network that exports as something else than it is."""

    def forward(
        self,
        person_image: torch.Tensor,
        person_parsing: torch.Tensor,
        person_densepose: torch.Tensor,
        transfer_parsing: torch.Tensor,
        warped_garment: torch.Tensor,
    ) -> torch.Tensor:
        mixed = (person_image // 2) + (warped_garment // 4)
        mixed = mixed + (person_parsing + transfer_parsing)[..., None]
        return mixed + 5 if torch.onnx.is_in_onnx_export() else mixed


def test_a_graph_that_differs_from_torch_is_not_written(checkpoint, plain_networks, tmp_path):
    def factory(path: Path) -> tuple[str, dict[str, nn.Module]]:
        return "plain", {**plain_networks, "regrowth": _Dishonest()}

    with pytest.raises(ExportError, match=r"regrowth\.onnx: image") as raised:
        export_bundle(checkpoint, tmp_path / "bundle", size=Size(64, 64), factory=factory)
    assert raised.value.code == Code.EXPORT_INACCURATE
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_a_stage_is_refused(networks, tmp_path):
    path = tmp_path / "some.safetensors"
    save_checkpoint(path, "lite", {"parsing": networks["parsing"]})
    with pytest.raises(ExportError, match="warping, regrowth; it has parsing") as raised:
        export_bundle(path, tmp_path / "bundle", size=Size(64, 64))
    assert raised.value.code == Code.CHECKPOINT_INVALID


@pytest.mark.parametrize("file", ["thesis.txt", "manifest.json", "bundle/notes.txt"])
def test_a_folder_that_is_not_a_bundle_alone_is_not_replaced(bundle, checkpoint, tmp_path, file):
    folder = (tmp_path / file).parent
    if folder != tmp_path:
        shutil.copytree(bundle.path, folder)
    (tmp_path / file).write_text('{"name": "mine"}')
    with pytest.raises(OutputError) as raised:
        export_bundle(checkpoint, folder, size=Size(64, 64))
    assert raised.value.code == Code.OUTPUT_EXISTS
    assert (tmp_path / file).read_text() == '{"name": "mine"}'


def test_size_has_to_be_divisible_by_32(checkpoint, tmp_path):
    with pytest.raises(ExportError, match="size is 250x192"):
        export_bundle(checkpoint, tmp_path / "bundle", size=Size(250, 192))


def test_factory_names():
    assert load_factory("garment_transfer.models.checkpoint:load_checkpoint") is load_checkpoint
    with pytest.raises(ExportError, match=r"expected package\.module:function"):
        load_factory("garment_transfer.models.checkpoint:nothing")


def test_checkpoint_round_trip(networks, checkpoint):
    preset, loaded = load_checkpoint(checkpoint)
    assert preset == "lite"
    for stage, network in networks.items():
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(loaded[stage].state_dict()[name], tensor)


def test_checkpoint_keeps_the_other_stages(networks, checkpoint, tmp_path):
    path = tmp_path / "lite.safetensors"
    shutil.copy(checkpoint, path)
    save_checkpoint(path, "lite", {"regrowth": networks["regrowth"]})
    assert set(load_checkpoint(path)[1]) == set(STAGES)


def test_checkpoint_errors(networks, tmp_path):
    with pytest.raises(CheckpointError, match="`garment-transfer train` writes one"):
        load_checkpoint(tmp_path / "missing.safetensors")
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(path)
    path = tmp_path / "lite.safetensors"
    save_checkpoint(path, "lite", {"regrowth": networks["regrowth"]})
    with pytest.raises(CheckpointError, match="holds preset 'lite', not 'full'"):
        save_checkpoint(path, "full", {})


def test_presets_have_the_promised_sizes():
    def millions(preset: str) -> dict[str, float]:
        return {
            stage: sum(p.numel() for p in build_network(preset, stage).parameters()) / 1e6
            for stage in STAGES
        }

    assert sum(millions("lite").values()) <= 2.3
    assert all(9 <= size <= 12 for size in millions("full").values())
    assert dataclasses.asdict(PRESETS["lite-without-stn"].warping)["aligning"] is False
