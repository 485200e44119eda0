"""The configuration: what is written is what trains, and a slip is named."""

from pathlib import Path

import pytest

from garment_transfer.bundle import Code, InputError
from garment_transfer.training.config import PhaseConfig, RunConfig, override, read_config
from garment_transfer.training.phases import METHOD, Weights

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_configurations_are_complete(file):
    config = read_config(file)
    assert set(config.phases) == ({"maps"} if file.stem.startswith("maps") else set(METHOD))
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


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("preset = 'light'", "Unknown preset 'light', not one of lite, full"),
        ("stepz = 3", "unknown field `stepz`"),
        ("batch = 0", "`$.batch`"),
        ("size = [100, 64]", "multiple of 32 - at `$.size[0]`"),
        ("size = [64]", "`$.size`"),
        ("seed = 'one'", "Expected `int`, got `str` - at `$.seed`"),
        ("learning_rate = 0", "`$.learning_rate`"),
        ("weights = 1", "`$.weights`"),
        ("weights.feature = -1", "`$.weights.feature`"),
        ("weights.erasing = 'none'", "`$.weights.erasing`"),
        ("weights.colour = 1", "unknown field `colour` - at `$.weights`"),
        ("phases.warp = {}", "Unknown phase 'warp', not one of try-on-parsing"),
        ("phases.aligning.steps = 1.5", "`$.phases[...].steps`"),
        ("knowledge.teacher = 'x'", "Unknown network 'teacher'"),
        ("steps = ", "Invalid value"),
    ],
)
def test_a_slip_is_named(tmp_path, text, named):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(InputError) as error:
        read_config(tmp_path / "run.toml")
    assert named in str(error.value)
    assert error.value.code == Code.CONFIG_INVALID


def test_options_hold_over_the_file():
    config = RunConfig(steps=7, phases={"aligning": PhaseConfig(steps=3, batch=2)})
    config = override(
        config, {"steps": 5, "seed": None, "size": (64, 32)}, {"feature": "0.5"}, {"parsing": "1"}
    )
    assert config.phases == {"aligning": PhaseConfig(batch=2)}
    assert (config.steps, config.seed, config.size) == (5, 0, (64, 32))
    assert config.weights == Weights(feature=0.5)
    assert config.knowledge == {"parsing": "1"}
    for wrong in ({"feature": "much"}, {"colour": "1"}):
        with pytest.raises(InputError, match=r"options.*(feature|colour)"):
            override(config, {}, wrong, {})
