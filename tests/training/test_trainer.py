"""The training loop: every phase learns, a kill costs nothing, a bad loss ruins nothing."""

import dataclasses

import pytest
import torch
from msgspec.structs import replace
from torch.optim.swa_utils import AveragedModel

from garment_transfer.bundle import STAGES
from garment_transfer.models.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from garment_transfer.models.presets import NETWORKS, build_network, shipped_checkpoint
from garment_transfer.training.losses import flow_loss, places_loss
from garment_transfer.training.phases import PHASES, Weights
from garment_transfer.training.trainer import (
    TrainingConfig,
    TrainingError,
    _averaging,
    result_of,
    train,
)


@pytest.fixture
def config(shards, tmp_path):
    return TrainingConfig(
        phase="regrowth", preset="lite", data=shards, output=tmp_path / "run", steps=12, batch=2
    )


def assert_equal(checkpoint, expected, network="regrowth"):
    """Both hold the same weights of a network, to the last bit."""
    weights, others = (
        load_checkpoint(file)[1][network].state_dict() for file in (checkpoint, expected)
    )
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())


def test_a_killed_run_ends_where_an_unbroken_one_does(config, tmp_path):
    class Killed(Exception):
        pass

    def kill(step, scalars):
        raise Killed

    unbroken = train(replace(config, output=tmp_path / "unbroken"))
    with pytest.raises(Killed):
        train(replace(config, save_every=5), kill)
    resumed = train(replace(config, save_every=5))
    assert_equal(resumed, unbroken)
    # before they were rounded for the results, too
    states = [torch.load(f.with_name("regrowth.state.pt")) for f in (resumed, unbroken)]
    for name, tensor in states[0]["averaged"].items():
        assert torch.equal(tensor, states[1]["averaged"][name])
    assert states[0]["random"] == states[1]["random"]


def test_a_run_killed_after_its_last_state_still_writes_its_checkpoint(config):
    result = train(replace(config, steps=2))
    moved = result.rename(config.output / "moved.safetensors")
    (config.output / "checkpoint.safetensors").unlink()
    train(replace(config, steps=2))
    for file in (result, config.output / "checkpoint.safetensors"):
        assert_equal(file, moved)


def test_a_run_goes_on_from_the_results_of_its_first_phases_alone(config, tmp_path):
    parsing = tmp_path / "parsing.safetensors"
    save_checkpoint(parsing, "lite", {"parsing": build_network("lite", "parsing")})
    first = replace(
        config,
        phase="aligning",
        steps=2,
        weights=Weights(content=0),
        knowledge={"parsing": parsing},
    )
    aligned = train(first)
    clone = replace(first, output=tmp_path / "clone")
    copied = result_of(clone.output, "aligning")
    copied.parent.mkdir()
    copied.write_bytes(aligned.read_bytes())
    train(clone)
    assert copied.read_bytes() == aligned.read_bytes()
    assert not (clone.output / "aligning.state.pt").exists()
    second, again = (train(replace(run, phase="warping", steps=1)) for run in (first, clone))
    assert_equal(again, second, "warping")
    for run in (first, clone):  # what is exported is what the results hold
        assert_equal(run.output / "checkpoint.safetensors", second, "warping")
    with pytest.raises(TrainingError, match=r"aligning\.safetensors .*: seed was 0 and is now 1"):
        train(replace(clone, seed=1))


def test_a_result_is_float16_and_small(tmp_path):
    networks = {name: build_network("lite", name) for name in NETWORKS}
    networks |= load_checkpoint(shipped_checkpoint("lite"))[1]
    assert set(STAGES) < set(networks)
    for name, network in networks.items():
        file = tmp_path / f"{name}.safetensors"
        save_checkpoint(file, "lite", {name: network}, phase="warping")
        assert file.stat().st_size <= 5_000_000
        loaded = load_checkpoint(file)[1][name].state_dict()
        for key, tensor in network.state_dict().items():
            assert loaded[key].dtype == tensor.dtype
            if tensor.ndim < 2:
                assert torch.equal(loaded[key], tensor)
            else:  # float16 has eleven bits, and steps of 2 ** -24 where it is least
                torch.testing.assert_close(loaded[key], tensor, rtol=2**-11, atol=2**-25)


def test_other_settings_do_not_continue_a_run(config):
    train(replace(config, steps=2))
    with pytest.raises(TrainingError, match="other settings: steps was 2 and is now 3; repeat"):
        train(replace(config, steps=3))
    with pytest.raises(TrainingError, match="'erasing': 'rectangles'"):
        train(replace(config, steps=2, weights=Weights(erasing="rectangles")))


def test_a_run_can_start_from_a_checkpoint(config, tmp_path):
    first = train(replace(config, steps=5))
    # at a rate of 0 what it started from is what it ends with
    again = replace(
        config, output=tmp_path / "again", steps=1, learning_rate=0.0, average=1.0, initial=first
    )
    due = load_checkpoint(first)[1]["regrowth"]
    for name, tensor in load_checkpoint(train(again))[1]["regrowth"].named_parameters():
        torch.testing.assert_close(tensor, due.get_parameter(name))
    other = replace(again, output=tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds regrowth of preset 'lite'; expected warping"):
        train(replace(other, phase="supervised-warping"))
    with pytest.raises(CheckpointError, match="is of preset 'lite', whose regrowth is not that"):
        train(replace(other, preset="full"))


def test_the_average_of_a_short_training_is_not_its_start():
    network = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(network, multi_avg_fn=_averaging(0.998))
    mean = 0.0
    for step in range(60):
        torch.nn.init.constant_(network.weight, step)
        averaged.update_parameters(network)
        decay = min(0.998, (1 + step) / (10 + step)) if step else 0.0
        mean = decay * mean + (1 - decay) * step
    assert averaged.module.weight.item() == pytest.approx(mean, rel=1e-5)
    # a decay of 0.998 alone would leave it at 3.4
    assert mean > 50


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(config, monkeypatch):
    def loss(network, batch, knowledge):
        # the root of 0 is finite and its slope is not
        return sum(p.square().sum() * 0 for p in network.parameters()).sqrt(), {}, list

    monkeypatch.setitem(PHASES, "regrowth", dataclasses.replace(PHASES["regrowth"], loss=loss))
    with pytest.raises(TrainingError, match="is not finite"):
        train(config)
    assert not (config.output / "checkpoint.safetensors").exists()


def test_a_stopped_run_may_go_on_at_another_rate(config):
    def stop(step, scalars):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(config, save_every=5), stop)
    train(replace(config, learning_rate=1e-4))


def test_what_a_phase_goes_on_or_learns_from_is_named(config):
    def fails(phase, match, error=TrainingError, **changes):
        with pytest.raises(error, match=match):
            train(replace(config, phase=phase, **changes))

    fails("transfer-parsing", "learns from try_on_parsing.* train phase 'try-on-parsing' first")
    fails("self-study", "goes on from 'transfer-parsing'.* train 'transfer-parsing' first")
    fails("aligning", "has no STN", preset="lite-without-stn")
    fails("transfer-parsing", "nothing to learn", weights=Weights(response=0, feature=0))
    # a result of another phase in the place of one
    train(replace(config, phase="supervised-parsing", steps=1))
    there = result_of(config.output, "supervised-parsing")
    there.rename(result_of(config.output, "transfer-parsing"))
    fails("self-study", "comes from phase 'supervised-parsing'; expected", CheckpointError)


def test_a_run_of_another_preset_is_refused_before_its_first_step(config):
    train(replace(config, steps=1))

    def log(step, scalars):
        raise AssertionError("it was trained first")

    with pytest.raises(CheckpointError, match="holds preset 'lite', not 'full'"):
        train(replace(config, preset="full", phase="supervised-regrowth"), log)


def test_pictures_change_nothing(config, tmp_path):
    pictures = []
    shown = train(config, show=lambda step, picture: pictures.append(picture))
    # a row per sample: erased, regrown, the photo
    assert [picture.shape for picture in pictures] == [(2 * 64, 3 * 64, 3)]
    again = train(replace(config, output=tmp_path / "again"))
    assert_equal(again, shown)


def test_flow_loss_is_least_at_the_truth(still):
    truth = torch.zeros(1, 2, 64, 64)
    truth[:, 0] = 6
    valid = torch.full((1, 64, 64), 2)
    loss, distance = flow_loss(still(64, 6), truth, valid)
    assert distance == pytest.approx(0.1, abs=1e-3)  # the root's own floor
    worse, off = flow_loss(still(64, 9), truth, valid)
    assert off == pytest.approx(3, abs=0.01)
    assert worse > loss


def test_flow_loss_counts_hidden_points_less_and_unknown_ones_not_at_all(still):
    truth = torch.zeros(1, 2, 64, 64)
    truth[..., 32:] = 8
    losses = []
    for right in (0, 1, 2):
        valid = torch.full((1, 64, 64), 2)
        valid[..., 32:] = right
        losses.append(flow_loss(still(64), truth, valid)[0].item())
    assert losses[0] < losses[1] < losses[2]


def test_places_loss_is_the_distance_where_there_is_a_garment():
    truth = torch.zeros(1, 3, 16, 16)
    truth[:, 0, :, :8] = 0.05
    places = torch.zeros(1, 3, 4, 4)
    places[:, 0] = 0.5  # decimetres, which is where the truth is
    places[:, 2, :, 2:] = 9  # where there is no garment
    assert places_loss(places, truth) == pytest.approx(0, abs=5e-3)
    places[:, 1] = 0.3
    assert places_loss(places, truth) == pytest.approx(0.3, abs=5e-3)
