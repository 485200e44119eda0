"""float16 graphs: what is half in them, what rounding costs, and values that float16 lacks."""

import copy
import sys

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from torch import nn

from garment_transfer.bundle import STAGES, Bundle, ExportError, Size, contract
from garment_transfer.cli.main import main
from garment_transfer.export import float16
from garment_transfer.export.autocast import autocast_half
from garment_transfer.export.bundle import export_bundle, listed_half
from garment_transfer.export.passes import module_of, types_of
from garment_transfer.models.presets import build

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def _half_graph(bundle, stage):
    model = onnx.load(bundle.graph_path(stage, "float16"))
    return model, types_of(model)


def _sample(size, stage, seed=0):
    random = np.random.default_rng(seed)
    inputs = {}
    for tensor in contract(size)[stage].inputs:
        shape = [1 if axis == "N" else axis for axis in tensor.shape]
        inputs[tensor.name] = random.integers(
            7 if "parsing" in tensor.name else 256, size=shape, dtype=np.uint8
        )
        if "densepose" in tensor.name:
            inputs[tensor.name][..., 0] %= 25
    return inputs


def test_both_precisions_are_in_the_bundle(bundle):
    manifest = Bundle.load(bundle.path).manifest
    assert manifest.precisions == ("float32", "float16")
    assert manifest.schema_version == 2
    for stage in STAGES:
        path = bundle.graph_path(stage, "float16")
        assert path.name == f"{stage}.float16.onnx"
        assert manifest.graphs_of("float16")[stage].inputs == manifest.graphs[stage].inputs
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert {value.name for value in session.get_outputs()} == {
            tensor.name for tensor in contract(manifest.size)[stage].outputs
        }


def test_accuracy_is_recorded_and_good(bundle):
    accuracy = bundle.manifest.variants["float16"].accuracy
    assert accuracy.different_labels <= 0.002
    assert accuracy.image_psnr >= 40
    assert accuracy.warped_garment_psnr >= 40
    assert 0 < accuracy.flow_difference < 1
    assert 1 <= accuracy.largest_activation < float16.LARGEST


def test_convolutions_of_features_are_half(bundle):
    for stage in STAGES:
        model, types = _half_graph(bundle, stage)
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        whole = {module_of(node) for node in convolutions if types[node.output[0]] == FLOAT}
        # places of the cloth and changes of the flow are coordinates
        assert all(m in ("worn", "wanted") or m.endswith(".change") for m in whole), stage
        assert len(whole) == (7 if stage == "warping" else 0)
        for node in convolutions:
            assert len({types[name] for name in (*node.input, *node.output)}) == 1


def test_flow_warp_takes_half_features_and_float32_coordinates(bundle):
    model, types = _half_graph(bundle, "warping")
    warps = [node for node in model.graph.node if node.op_type == "FlowWarp"]
    assert len(warps) == 6
    assert len(model.functions) == 1
    for node in warps:
        assert [types[name] for name in node.input[1:]] == [FLOAT] * 3
        assert types[node.output[1]] == FLOAT
        assert types[node.input[0]] == types[node.output[0]]
    # the photo itself is sampled in float32
    assert [types[node.input[0]] for node in warps].count(HALF) == 5
    assert types[warps[-1].input[0]] == FLOAT


def test_what_needs_float32_is_float32(bundle):
    operators = float16.rules()["parsing"].float32_operators
    assert {"ArgMax", "Softmax"} <= operators
    for stage in STAGES:
        model, types = _half_graph(bundle, stage)
        for node in model.graph.node:
            if node.op_type in operators:
                assert HALF not in {types.get(name) for name in (*node.input, *node.output)}
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.elem_type != HALF


def test_the_list_names_modules_that_there_are(networks):
    for stage, rule in float16.rules().items():
        modules = [name for name, _ in networks[stage].named_modules()]
        for pattern in (*rule.half, *rule.warp_half):
            assert any(float16.matches(name, [pattern]) for name in modules), (stage, pattern)


def test_patterns():
    assert float16.matches("levels.3.carry", ["levels.*.carry"])
    assert float16.matches("levels.3.layers.0.1", ["levels.*.layers"])
    assert not float16.matches("levels.3.change", ["levels.*.carry", "levels.*.layers"])
    assert float16.matches("", [""])
    assert not float16.matches("levels.3", [""])
    assert not float16.matches("garment_context.down", ["garment"])


_CHAIN = """
g (float[N,3] x) => (float[N,3] y) {{
  half = Cast <to = 10> (x)
  a = Mul (half, factor)
  b = Relu (a)
  c = Mul (b, small)
  y = Cast <to = 1> (c)
}}
"""


def _chain(factor, small):
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 18]>' + _CHAIN.format())
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
    half = x.astype(np.float16)
    product = (half * factor).astype(np.float16)
    due = (np.maximum(product, 0) * small).astype(np.float16)
    normal = np.abs(due) > 6.2e-5  # float32 keeps more of what is smaller than float16's normals
    assert normal.mean() > 0.4
    np.testing.assert_array_equal(outputs["y"][normal], due[normal].astype(np.float32))
    assert largest == pytest.approx(float(np.abs(half.astype("f4") * np.float32(factor)).max()))


def test_overflow_names_the_layer():
    # brought back to 90 at once: onnxruntime's CPU, which computes in float32, would not notice
    emulation = float16.Emulation(_chain(300, 0.001))
    emulation.run({"x": np.full((1, 3), 200, np.float32)})
    with pytest.raises(ExportError, match=r"layer module/Mul_a reaches 9e\+04, .* 65504.*'module'"):
        emulation.run({"x": np.full((1, 3), 300, np.float32)})


def test_what_is_no_number_names_the_layer():
    with pytest.raises(ExportError, match=r"layer module/Cast_half reaches infinity or no number"):
        float16.Emulation(_chain(1, 1)).run({"x": np.full((1, 3), np.nan, np.float32)})


def test_large_activations_of_a_network_name_its_module(bundle):
    model = onnx.load(bundle.graph_path("regrowth"))
    node = next(node for node in model.graph.node if node.name.startswith("encoder.levels.2"))
    assert node.op_type == "Conv"
    (weight,) = [t for t in model.graph.initializer if t.name == node.input[1]]
    values = numpy_helper.to_array(weight)
    large = values * (6e4 / np.abs(values).max())
    weight.CopyFrom(numpy_helper.from_array(large, weight.name))
    half = float16.to_float16(model, float16.rules()["regrowth"])
    with pytest.raises(ExportError, match=rf"the layer {node.name} reaches [\d.]+e\+05"):
        float16.Emulation(half).run(_sample(bundle.manifest.size, "regrowth"))


def test_a_weight_beyond_float16(bundle):
    model = onnx.load(bundle.graph_path("regrowth"))
    node = next(node for node in model.graph.node if node.name.startswith("encoder.levels.2"))
    (weight,) = [t for t in model.graph.initializer if t.name == node.input[1]]
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=rf"the weight {weight.name} holds 1e\+05"):
        float16.to_float16(model, float16.rules()["regrowth"])


def test_networks_that_are_not_ours_are_pointed_to_autocast(bundle):
    model = onnx.load(bundle.graph_path("regrowth"))
    for node in model.graph.node:
        node.name = "theirs." + node.name
    with pytest.raises(
        ExportError, match=r"has no module named encoder.*it has theirs.*--autocast"
    ):
        float16.to_float16(model, float16.rules()["regrowth"])


class _Parsing(nn.Module):
    def forward(self, person_parsing, person_densepose, garment_parsing, garment_densepose):
        zero = 0 * (person_densepose.int() + garment_densepose.int())[..., 0]
        return (person_parsing.int() + 0 * garment_parsing.int() + zero).byte()


class _Warping(nn.Module):
    def forward(self, garment_image, garment_parsing, transfer_parsing, person_densepose):
        zero = 0.0 * (garment_parsing.float() + transfer_parsing + person_densepose[..., 0])
        flow = zero[:, None].expand(-1, 2, -1, -1) + 0.0
        return (garment_image.float() + zero[..., None]).byte(), flow


class _Regrowth(nn.Module):
    """A network whose features overflow float16, though what comes of them does not."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.constant_(self.encoder.weight, 1000.0)

    def forward(self, person_image, person_parsing, transfer_parsing, warped_garment):
        features = self.encoder(person_image.permute(0, 3, 1, 2).float())
        zero = 0.0 * (person_parsing.float() + transfer_parsing)[..., None] * warped_garment
        return (features.float().permute(0, 2, 3, 1) / 3000 + zero).clamp(0, 255).byte()


def test_an_export_whose_activations_overflow_writes_nothing(checkpoint, tmp_path, monkeypatch):
    networks = {"parsing": _Parsing(), "warping": _Warping(), "regrowth": _Regrowth()}
    monkeypatch.setattr(float16, "rules", lambda: dict.fromkeys(STAGES, rule))
    rule = float16.Rule(("encoder",), (), frozenset())

    def half(stage, model, samples):
        return listed_half(stage, model, samples) if stage == "regrowth" else copy.copy(model)

    with pytest.raises(ExportError, match=r"the layer encoder/Conv_0 reaches [\d.]+e\+05"):
        export_bundle(
            checkpoint,
            tmp_path / "bundle",
            size=Size(32, 32),
            factory=lambda path: ("tiny", networks),
            half=half,
        )
    assert list(tmp_path.iterdir()) == []


def test_presets_without_an_stn_convert_too():
    rule = float16.rules()["warping"]
    modules = [name for name, _ in build("lite-without-stn")["warping"].named_modules()]
    assert not any(float16.matches(name, ["aligning.features"]) for name in modules)
    assert sum(float16.matches(name, rule.half) for name in modules) > 50


def test_autocast_chooses_what_is_half(bundle):
    pytest.importorskip("modelopt.onnx.autocast", reason="extra autocast is not installed")
    model = onnx.load(bundle.graph_path("regrowth"))
    samples = [
        {name: value for name, value in _sample(bundle.manifest.size, "regrowth", seed).items()}
        for seed in range(2)
    ]
    half = autocast_half("regrowth", model, samples)
    types = types_of(half)
    convolutions = [node for node in half.graph.node if node.op_type == "Conv"]
    assert sum(types[node.output[0]] == HALF for node in convolutions) > len(convolutions) / 2
    outputs, _ = float16.Emulation(half).run(samples[0])
    session = onnxruntime.InferenceSession(
        bundle.graph_path("regrowth"), providers=["CPUExecutionProvider"]
    )
    (due,) = session.run(["image"], samples[0])
    assert np.abs(outputs["image"].astype(int) - due).mean() < 1


def test_autocast_without_modelopt_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    with pytest.raises(ExportError, match=r"needs NVIDIA's ModelOpt.*garment-transfer\[autocast\]"):
        autocast_half("regrowth", onnx.ModelProto(), [])


def test_autocast_is_about_float16():
    result = CliRunner().invoke(main, ["export", "checkpoint", "-o", "bundle", "--autocast"])
    assert result.exit_code == 2
    assert "add --precision float16" in result.output
