"""The configuration file: what is written is what trains, and every slip is named."""

from pathlib import Path

import pytest

from garment_transfer.bundle import InputError
from garment_transfer.training.config import config_from, read_config
from garment_transfer.training.phases import METHOD, Weights

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_configurations_are_complete(file):
    config = read_config(file)
    assert set(config.phases) == set(METHOD)
    assert config.weights == Weights()


def test_a_phase_takes_its_own_values_and_else_the_files(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        "steps = 7\nlearning_rate = 1\nsize = [64, 32]\n[weights]\nfeature = 0\n"
        "[phases.self-study]\nsteps = 3\n[knowledge]\nparsing = 's.safetensors'\n"
    )
    config = read_config(file)
    own = config.phase("self-study", Path("d"), Path("o"))
    other = config.phase("regrowth", Path("d"), Path("o"), Path("i"))
    assert (own.steps, other.steps) == (3, 7)
    assert own.learning_rate == 1.0
    assert own.weights == Weights(feature=0.0)
    assert own.size == (64, 32)
    assert own.knowledge == {"parsing": Path("s.safetensors")}
    assert (own.initial, other.initial) == (None, Path("i"))


def test_every_slip_is_named_at_once(tmp_path):
    values = {
        "preset": "light",
        "stepz": 3,
        "batch": 0,
        "size": [100, 64],
        "seed": "one",
        "weights": {"feature": -1, "erasing": "none", "colour": 1},
        "phases": {"warp": {}, "aligning": {"steps": 1.5}},
        "knowledge": {"teacher": "x"},
    }
    with pytest.raises(InputError) as error:
        config_from(values, "run.toml")
    for due in (
        "run.toml is no configuration",
        "unknown preset 'light'; available: lite, full",
        "unknown name stepz",
        "batch is 0; expected 1 or more",
        "size is [100, 64]; expected [height, width], both divisible by 32",
        "seed is 'one'; expected a whole number",
        "weights.feature is -1.0; expected 0 or more",
        "weights.erasing is 'none'; expected 'garments' or 'rectangles'",
        "unknown name weights.colour",
        "unknown phase 'warp'",
        "phases.aligning.steps is 1.5; expected a whole number",
        "unknown network 'teacher'",
    ):
        assert due in str(error.value)
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = ")
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_config(broken)
