"""Engines that TensorRT-RTX builds for real, on any CPU; TensorRT's own where there is a GPU."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from garment_transfer.bundle import (
    STAGES,
    BackendError,
    Batch,
    Bundle,
    EngineError,
    OutputError,
    Plugin,
    contract,
    find_engines,
    list_engines,
)
from garment_transfer.export.flow_warp import flow_warp_model
from garment_transfer.export.tensorrt import build_engines, copy_bundle, parse
from garment_transfer.runtime import sample_bundle
from garment_transfer.runtime.backends.tensorrt import load_plugin, logger_of

RTX = "tensorrt-rtx"
PRECISIONS = ("float32", "float16")


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx_bindings", reason="extra rtx is not installed")


@pytest.fixture(scope="module")
def parts():
    """What `progress` was told while `built` was built."""
    return []


@pytest.fixture(scope="module")
def built(bundle, trt, parts, tmp_path_factory):
    """The bundle with engines of both precisions, batch 1:1:8."""
    own = copy_bundle(bundle, tmp_path_factory.mktemp("engines") / "bundle")
    for precision in PRECISIONS:
        build_engines(
            own,
            RTX,
            precision,
            batch=Batch(1, 1, 8),
            progress=lambda stage, part, done: parts.append((stage, part, done)),
        )
    return own


@pytest.fixture
def own(built, tmp_path):
    """A copy of the bundle and its engines for a test to spoil."""
    return copy_bundle(built, tmp_path / "bundle")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_is_built_and_recorded(built, trt, precision):
    engines = find_engines(built, RTX, precision, "8.9")
    assert engines.path.name == f"tensorrt-rtx-portable-{precision}"
    record = engines.record
    assert record.backend_version == trt.__version__
    assert set(record.compute_capabilities) >= {"8.0", "8.6", "8.9", "12.0"}
    assert record.batch == Batch(1, 1, 8)
    assert record.plugin is None
    for stage in STAGES:
        engine = record.stages[stage]
        assert engine.onnx_sha256 == built.manifest.graphs_of(precision)[stage].sha256
        assert len(engines.read_plan(stage)) == engine.bytes > 100_000
        assert engine.build_seconds > 0
        assert engine.inputs == contract(built.manifest.size)[stage].inputs
    for capability in ("8.0", "8.9", "12.0"):
        engines.check(trt.__version__, capability)
    with pytest.raises(EngineError, match=r"built by tensorrt-rtx .*, and 1\.0\.0 is installed"):
        engines.check("1.0.0", "8.9")


def test_a_bundle_with_engines_is_whole(invoke, built):
    assert len(list_engines(Bundle.load(built.path))) == 2
    assert not [path for path in (built.path / "engines").iterdir() if path.name.startswith(".")]
    printed = invoke("inspect", built.path)
    assert "engines tensorrt-rtx-portable-float16: tensorrt-rtx" in printed


def test_progress_is_told(built, parts):
    for stage in STAGES:
        shares = [share for name, _, share in parts if name == stage]
        assert max(shares) == 1.0
        assert all(0 <= share <= 1 for share in shares)
        # more than the start and the end, and within a part never backwards
        assert len(set(shares)) > 2
    # each stage of each precision came to its end
    assert sum(share == 1.0 for _, _, share in parts) >= 2 * len(STAGES)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_flow_warp_samples_linearly_at_float32_coordinates(bundle, trt, precision):
    path = bundle.graph_path("warping", precision)
    builder = trt.Builder(logger_of(trt))
    signature = bundle.manifest.graphs_of(precision)["warping"].signature
    network, plugins = parse(trt, builder, path.read_bytes(), path, signature)
    assert plugins == 0
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    samples = [layer for layer in layers if layer.type == trt.LayerType.GRID_SAMPLE]
    assert len(samples) == 6
    for layer in samples:
        # a network gives its layers by their base class
        layer.__class__ = trt.IGridSampleLayer
        assert layer.interpolation_mode == trt.InterpolationMode.LINEAR
        assert layer.sample_mode == trt.SampleMode.FILL
        assert not layer.align_corners
        assert layer.get_input(1).dtype == trt.DataType.FLOAT
        assert layer.get_output(0).dtype == trt.DataType.FLOAT
    resizes = [layer for layer in layers if layer.type == trt.LayerType.RESIZE]
    assert resizes
    for layer in resizes:
        layer.__class__ = trt.IResizeLayer
        linear = layer.resize_mode == trt.InterpolationMode.LINEAR
        half_pixel = (
            layer.coordinate_transformation == trt.ResizeCoordinateTransformation.HALF_PIXEL
        )
        assert half_pixel if linear else "nearest" in str(layer.resize_mode).lower()


@pytest.mark.parametrize(("padding", "mode"), [("border", "CLAMP"), ("zeros", "FILL")])
def test_padding(trt, padding, mode):
    network = trt.Builder(logger_of(trt)).create_network(0)
    parser = trt.OnnxParser(network, logger_of(trt))
    assert parser.parse(flow_warp_model(padding).SerializeToString())
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    (sample,) = [layer for layer in layers if layer.type == trt.LayerType.GRID_SAMPLE]
    sample.__class__ = trt.IGridSampleLayer
    assert sample.sample_mode == getattr(trt.SampleMode, mode)
    assert sample.interpolation_mode == trt.InterpolationMode.LINEAR


def test_a_plugin_that_the_parser_passes_over_is_an_error(bundle, trt):
    path = bundle.graph_path("warping")
    # no creator is registered in this process
    with pytest.raises(EngineError, match=r"built FlowWarp's body .*`--plugin off`"):
        parse(
            trt,
            trt.Builder(logger_of(trt)),
            path.read_bytes(),
            path,
            bundle.manifest.graphs["warping"].signature,
            plugin=True,
        )


def test_a_plugin_library_that_does_not_load(trt, tmp_path):
    library = tmp_path / "libplugin.so"
    library.write_bytes(b"no library")
    plugin = Plugin("FlowWarp", "1", "0" * 64, embedded=False)
    with pytest.raises(BackendError, match=r"does not load FlowWarp's plugin .*libplugin\.so: .+"):
        load_plugin(trt, library, plugin)


def _files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}


def test_an_interrupt_leaves_the_bundle_as_it_was(own):
    before = _files(own.path)

    def interrupt(stage, part, done):
        signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engines(own, RTX, "float16", progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert _files(own.path) == before
    assert len(list((own.path / "engines").iterdir())) == 2


def test_a_graph_that_tensorrt_refuses(replace_graph, bundle, trt, tmp_path):
    own = tmp_path / "bundle"
    shutil.copytree(bundle.path, own)
    replace_graph(own, b"no graph")
    loaded = Bundle.load(own)
    with pytest.raises(EngineError, match=r"does not take .*parsing\.onnx: .+; export the bundle"):
        build_engines(loaded, RTX)
    assert not (own / "engines").exists()


def test_the_package_s_own_bundle_is_not_changed(trt):
    loaded = Bundle.load(sample_bundle())
    with pytest.raises(EngineError, match=r"copied first, as `garment-transfer build .* -o "):
        build_engines(loaded, RTX)
    assert not (loaded.path / "engines").exists()


def test_a_copy_is_made_once(bundle, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(bundle.path, source)
    for path in (source, *source.iterdir()):
        path.chmod(0o555)
    copy = copy_bundle(Bundle.load(source), tmp_path / "copy")
    assert copy.path.stat().st_mode & 0o200
    assert copy.manifest == bundle.manifest
    (copy.path / "engines").mkdir()
    assert copy_bundle(bundle, copy.path) == copy
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match=r"other exists and is not a copy of"):
        copy_bundle(bundle, tmp_path / "other")
    source.chmod(0o755)


def test_a_copy_inside_the_bundle_does_not_hold_itself(own_tiny_bundle):
    copy = copy_bundle(Bundle.load(own_tiny_bundle), own_tiny_bundle / "copy")
    assert not [path for path in copy.path.iterdir() if path.is_dir()]


def test_the_command_copies_builds_and_says_what(invoke, tiny_bundle, trt, tmp_path):
    output = tmp_path / "bundle"
    printed = invoke("build", tiny_bundle, "--backend", RTX, "--batch", "1:2:4", "-o", output)
    assert "wrote" in printed
    assert "batch 1:2:4, FlowWarp by its body" in printed
    (engines,) = list_engines(Bundle.load(output))
    assert engines.record.batch == Batch(1, 2, 4)
    assert not (tiny_bundle / "engines").exists()


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        (["--backend", RTX, "--batch", "8:1:1"], "expected MIN:OPT:MAX with 1 <= MIN"),
        (["--backend", RTX, "--batch", "8"], "is not MIN:OPT:MAX"),
        (["--backend", RTX, "--optimization-level", "6"], "6 is not in the range"),
        (["--backend", "openvino"], "'openvino' is not one of"),
    ],
)
def test_options_that_make_no_sense(invoke, own_tiny_bundle, trt, arguments, due):
    printed = invoke("build", own_tiny_bundle, *arguments, code=2)
    assert due in printed


def test_rtx_takes_no_plugins(invoke, own_tiny_bundle, trt):
    options = ("--backend", RTX, "--plugin", "embed")
    printed = invoke("build", own_tiny_bundle, *options, code=1)
    assert "TensorRT-RTX takes no plugins" in printed


def test_tensorrt_without_its_package_or_a_gpu_says_what_to_do(own_tiny_bundle):
    loaded = Bundle.load(own_tiny_bundle)
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(BackendError, match=r"tensorrt is not installed.*pip install"):
            build_engines(loaded, "tensorrt")
    else:
        pytest.skip("tensorrt is installed: the gpu test builds with it")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_builds_every_graph(bundle, precision, tmp_path, monkeypatch):
    tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    from garment_transfer.kernels import tensorrt_library
    from garment_transfer.runtime.cuda import CudaDevice

    try:
        device = CudaDevice()
    except BackendError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = copy_bundle(bundle, tmp_path / "bundle")
    engines = build_engines(own, "tensorrt", precision)
    assert engines.record.compute_capabilities == (device.compute_capability,)
    assert (engines.record.plugin is None) == (tensorrt_library() is None)
    engines.check(tensorrt.__version__, device.compute_capability, tensorrt_library())
    for stage in STAGES:
        assert json.loads((engines.path / f"{stage}.layers.json").read_text())
        assert engines.record.stages[stage].device_memory_bytes is not None
    assert list(Path(tmp_path, "cache").rglob("timing-*.cache"))
