"""float16 graphs: what is float16 in them, what rounding costs, and values that float16 lacks."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from garment_transfer.bundle import STAGES, Bundle, Code, ExportError, Size, Stage
from garment_transfer.export import float16
from garment_transfer.export.bundle import export_bundle
from garment_transfer.export.float16 import (
    LEAST_PSNR,
    MOST_DIFFERENT_LABELS,
    convert_by_autocast,
)
from garment_transfer.export.passes import module_of, types_of
from garment_transfer.models.presets import build_network

FLOAT16, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def _float16_graph(bundle: Bundle, stage: Stage) -> tuple[onnx.ModelProto, dict[str, int]]:
    model = onnx.load(bundle.graph_path(stage, "float16"))
    return model, types_of(model)


def test_both_precisions_are_in_the_bundle(bundle):
    manifest = Bundle.load(bundle.path).manifest
    assert manifest.precisions == ("float32", "float16")
    accuracy = manifest.variants["float16"].accuracy
    assert accuracy.different_labels <= MOST_DIFFERENT_LABELS
    assert accuracy.image_psnr >= LEAST_PSNR
    assert accuracy.warped_garment_psnr >= LEAST_PSNR
    assert 0 < accuracy.flow_difference < 1
    assert 1 <= accuracy.largest_activation < float16.LARGEST


def test_convolutions_of_features_are_float16(bundle):
    for stage in STAGES:
        model, types = _float16_graph(bundle, stage)
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        whole = {module_of(node) for node in convolutions if types[node.output[0]] == FLOAT}
        # places of the cloth and changes of the flow are coordinates
        assert all(m in ("worn", "wanted") or m.endswith(".change") for m in whole), stage
        assert len(whole) == (7 if stage == "warping" else 0)
        for node in convolutions:
            assert len({types[name] for name in (*node.input, *node.output)}) == 1


def test_flow_warp_takes_float16_features_and_float32_coordinates(bundle):
    model, types = _float16_graph(bundle, "warping")
    warps = [node for node in model.graph.node if node.op_type == "FlowWarp"]
    assert len(warps) == 6
    assert len(model.functions) == 1
    for node in warps:
        assert [types[name] for name in node.input[1:]] == [FLOAT] * 3
        assert types[node.output[1]] == FLOAT
        assert types[node.input[0]] == types[node.output[0]]
    # the photo itself is sampled in float32
    assert [types[node.input[0]] for node in warps].count(FLOAT16) == 5
    assert types[warps[-1].input[0]] == FLOAT


def test_what_needs_float32_is_float32(bundle):
    assert {"ArgMax", "Softmax"} <= float16.FLOAT32_OPERATORS
    for stage in STAGES:
        model, types = _float16_graph(bundle, stage)
        for node in model.graph.node:
            if node.op_type in float16.FLOAT32_OPERATORS:
                assert FLOAT16 not in {types.get(name) for name in (*node.input, *node.output)}
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.elem_type != FLOAT16


def test_the_list_names_modules_that_there_are(networks):
    for stage, rule in float16.rules().items():
        modules = [name for name, _ in networks[stage].named_modules()]
        for pattern in (*rule.modules, *rule.flow_warp):
            assert any(float16.matches(name, [pattern]) for name in modules), (stage, pattern)


def test_patterns():
    assert float16.matches("levels.3.carry", ["levels.*.carry"])
    assert float16.matches("levels.3.layers.0.1", ["levels.*.layers"])
    assert not float16.matches("levels.3.change", ["levels.*.carry", "levels.*.layers"])
    assert float16.matches("", [""])
    assert not float16.matches("levels.3", [""])
    assert not float16.matches("garment_context.down", ["garment"])


_CHAIN = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N,3] x) => (float[N,3] y) {
  half = Cast <to = 10> (x)
  a = Mul (half, factor)
  b = Relu (a)
  c = Mul (b, small)
  y = Cast <to = 1> (c)
}
"""


def _chain(factor: float, small: float) -> onnx.ModelProto:
    model = onnx.parser.parse_model(_CHAIN)
    for name, value in (("factor", factor), ("small", small)):
        array = np.array(value, np.float16)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"module/{node.op_type}_{node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    return model


def test_emulation_rounds_as_float16_does():
    # independent truth: NumPy's own float16
    random = np.random.default_rng(7)
    x = (random.standard_normal((500, 3)) * 10.0 ** random.integers(-2, 3, (500, 1))).astype("f4")
    factor, small = np.float16(3.14), np.float16(0.0331)
    outputs, largest = float16.Emulation(_chain(factor, small)).run({"x": x})
    rounded = x.astype(np.float16)
    product = (rounded * factor).astype(np.float16)
    expected = (np.maximum(product, 0) * small).astype(np.float16)
    normal = (
        np.abs(expected) > 6.2e-5
    )  # float32 keeps more of what is smaller than float16's normals
    assert normal.mean() > 0.4
    np.testing.assert_array_equal(outputs["y"][normal], expected[normal].astype(np.float32))
    assert largest == pytest.approx(float(np.abs(rounded.astype("f4") * np.float32(factor)).max()))


@pytest.mark.parametrize(
    ("factor", "x", "layer"), [(300.0, 300.0, "module/Mul_a"), (1.0, np.nan, "module/Cast_half")]
)
def test_overflow_names_the_layer(factor, x, layer):
    # brought back to 90 at once: onnxruntime's CPU, which computes in float32, would not notice
    emulation = float16.Emulation(_chain(factor, 0.001))
    emulation.run({"x": np.full((1, 3), 200, np.float32)})
    with pytest.raises(ExportError, match=rf"layer {layer} reaches .* 65504.*'module'") as raised:
        emulation.run({"x": np.full((1, 3), x, np.float32)})
    assert raised.value.code == Code.EXPORT_INACCURATE


def test_a_weight_beyond_float16(bundle):
    model = onnx.load(bundle.graph_path("regrowth"))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=rf"the weight {re.escape(weight.name)} holds 1e\+05"):
        float16.convert_by_list("regrowth", model, [])


def test_networks_that_are_not_ours_are_pointed_to_autocast(bundle):
    model = onnx.load(bundle.graph_path("regrowth"))
    for node in model.graph.node:
        node.name = "theirs." + node.name
    with pytest.raises(ExportError, match=r"modules are theirs.*encoder.*--autocast") as raised:
        float16.convert_by_list("regrowth", model, [])
    assert raised.value.code == Code.EXPORT_INVALID


class _Regrowth(nn.Module):
    """A network that gives the photo back, by way of features that are `scale` times as large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale
        self.encoder = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.zeros_(self.encoder.weight)
        with torch.no_grad():
            self.encoder.weight[range(3), range(3)] = scale

    def forward(
        self, person: Tensor, labels: Tensor, iuv: Tensor, new: Tensor, garment: Tensor
    ) -> Tensor:
        photo = person.permute(0, 3, 1, 2).float()
        # small differences of large numbers
        image = (self.encoder(photo) - (self._scale - 1) * photo).permute(0, 2, 3, 1)
        return image.clamp(0, 255).byte()


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (1000.0, r"the layer encoder/Conv_0 reaches [\d.]+e\+05"),
        (200.0, r"image has a PSNR of [123]"),
    ],
)
def test_a_float16_that_is_inaccurate_is_not_written(
    checkpoint, plain_networks, tmp_path, scale, says
):
    networks = {**plain_networks, "regrowth": _Regrowth(scale)}
    rule = float16.Rule(("encoder",), ())

    def convert(
        stage: Stage,
        model: onnx.ModelProto,
        samples: Sequence[Mapping[str, npt.NDArray[np.generic]]],
    ) -> onnx.ModelProto:
        return float16.to_float16(model, rule) if stage == "regrowth" else copy.copy(model)

    with pytest.raises(ExportError, match=says) as raised:
        export_bundle(
            checkpoint,
            tmp_path / "bundle",
            size=Size(32, 32),
            factory=lambda path: ("tiny", networks),
            converters={"float16": convert},
        )
    assert raised.value.code == Code.EXPORT_INACCURATE
    assert list(tmp_path.iterdir()) == []


def test_presets_without_an_stn_convert_too():
    rule = float16.rules()["warping"]
    modules = [name for name, _ in build_network("lite-without-stn", "warping").named_modules()]
    assert not any(float16.matches(name, ["aligning.features"]) for name in modules)
    assert sum(float16.matches(name, rule.modules) for name in modules) > 50


def test_autocast_chooses_what_is_float16(bundle, random_inputs):
    pytest.importorskip("modelopt.onnx.autocast", reason="extra autocast is not installed")
    model = onnx.load(bundle.graph_path("regrowth"))
    names = [value.name for value in model.graph.input]
    given = [random_inputs(bundle.manifest.size, seed=seed) for seed in range(2)]
    samples = [{name: one[name] for name in names} for one in given]
    converted = convert_by_autocast("regrowth", model, samples)
    types = types_of(converted)
    convolutions = [node for node in converted.graph.node if node.op_type == "Conv"]
    chosen = sum(types[node.output[0]] == FLOAT16 for node in convolutions)
    assert chosen > len(convolutions) / 2
    outputs, _ = float16.Emulation(converted).run(samples[0])
    session = onnxruntime.InferenceSession(
        bundle.graph_path("regrowth"), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(["image"], samples[0])
    assert np.abs(outputs["image"].astype(int) - expected).mean() < 1


def test_autocast_without_modelopt_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    with pytest.raises(ExportError, match=r"garment-transfer\[autocast\]") as raised:
        convert_by_autocast("regrowth", onnx.ModelProto(), [])
    assert raised.value.code == Code.BACKEND_UNAVAILABLE


def test_autocast_is_about_float16(invoke):
    printed = invoke("export", "checkpoint", "-o", "bundle", "--autocast", code=2)
    assert "add --precision float16" in printed
