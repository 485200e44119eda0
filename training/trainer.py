"""The training loop: one phase, resumable after a kill at any point."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from garment_transfer.bundle import STAGES, Code, GarmentTransferError, replacing
from garment_transfer.models.checkpoint import (
    check_preset,
    load_network,
    save_checkpoint,
    settings_of,
)
from garment_transfer.models.presets import PRESETS, build_network
from garment_transfer.runtime.photos import COLOURS
from garment_transfer.training.data import (
    Fields,
    PhotoBatches,
    PhotoSet,
    Shards,
    SnapshotBatches,
    Snapshots,
    TransferBatches,
    Transfers,
)
from garment_transfer.training.phases import LEARNT_IN, METHOD, PHASES, Knowledge, Phase, Weights
from garment_transfer.training.photos import open_photos

#: The file of a run's folder that holds the stages and is exported.
CHECKPOINT = "checkpoint.safetensors"


AnyBatches: TypeAlias = PhotoBatches | TransferBatches | SnapshotBatches
_Settings: TypeAlias = Mapping[str, str | int | float | Mapping[str, str | float]]


class TrainingError(GarmentTransferError):
    """Training that cannot start or go on."""


Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
_Side = Annotated[int, Meta(ge=32, multiple_of=32)]


class TrainingOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a training says of each of its phases.

    Attributes:
        preset: a key of `garment_transfer.models.presets.PRESETS`.
        seed: of initial weights and of the order of the data.
        steps: optimiser steps in all.
        batch: transfers per step.
        learning_rate: the highest; it rises over 3 % of the steps and falls as a cosine.
        average: decay of the moving average of the weights, which is what is kept. The average is
            over about the last ninth of the steps so far until it is reached, after 4,490 steps at
            0.998, so that a short training does not end with its start.
        save_every: steps between two saved states.
        size: (H, W) that people are rendered at, or fitted to.
        weights: how much each kind of knowledge counts.
    """

    preset: str = "lite"
    seed: Annotated[int, Meta(ge=0)] = 0
    steps: Count = 4000
    batch: Count = 8
    learning_rate: Rate = 1e-3
    average: Annotated[float, Meta(ge=0, le=1)] = 0.998
    save_every: Count = 200
    size: tuple[_Side, _Side] = (256, 192)
    weights: Weights = Weights()


class TrainingConfig(TrainingOptions, frozen=True, kw_only=True):
    """One phase of training.

    Attributes:
        phase: a key of `PHASES`.
        data: folder of rendered shards, of a data set in VITON's layout, or of people.
        output: the run's folder. `PHASE.safetensors` in it gets the phase's weights, and those of
            a student `checkpoint.safetensors` too, which is what is exported.
        initial: a checkpoint of the same preset whose weights the phase starts from. If not given,
            a phase that goes on from another takes that one's result in `output`.
        knowledge: checkpoints of the networks that the phase learns from, by name; those of the
            phases `LEARNT_IN` in `output` where one is not given.
    """

    phase: str
    data: Path
    output: Path
    initial: Path | None = None
    knowledge: Mapping[str, Path] = msgspec.field(default_factory=dict)


def result_of(output: Path, phase: str) -> Path:
    """The checkpoint that a phase writes into a run's folder."""
    return output / f"{phase}.safetensors"


def phases_of(preset: str) -> list[str]:
    """The phases of the method for a preset, in order: without an STN, none that aligns."""
    return [p for p in METHOD if p != "aligning" or PRESETS[preset].warping.aligning]


def open_data(config: TrainingConfig, photos: PhotoSet | None = None) -> AnyBatches:
    """The batches that a phase trains on; `photos` are those of its folder, where it is open.

    Raises:
        InputError: the folder holds none, or there are problems with its files: all are listed.
        TrainingError: the phase needs what these data lack.
    """
    phase = _phase(config)
    if phase.batch is Transfers:
        return TransferBatches(Shards(config.data), config.batch, config.seed)
    if phase.batch is Snapshots:
        return SnapshotBatches(config.data, config.batch, config.seed, config.size)
    if photos is None:
        photos = open_photos(config.data, config.size)
    if phase.needs_shop(config.weights) and not photos.has_shop:
        why = [
            f"set {' and '.join(causes)} to 0 to do without {name}"
            for name, causes in phase.teachers.items()
            if name.startswith("try_on") and causes
        ]
        raise TrainingError(
            Code.CONFIG_INVALID,
            f"phase {config.phase} needs the garments in the shop, which {config.data} lacks",
            expected="rendered people, or a data set in VITON's layout with the folders cloth and "
            "cloth-mask",
            fix=", or ".join(why),
        )
    return PhotoBatches(photos, config.batch, config.seed)


def train(
    config: TrainingConfig,
    log: Callable[[int, dict[str, float]], None] | None = None,
    show: Callable[[int, NDArray[np.uint8]], None] | None = None,
    data: AnyBatches | None = None,
) -> Path:
    """Train one phase, from its last saved state if there is one.

    A phase whose result is there trains no further, so a run of several phases that was killed
    goes on when it is repeated, also where nothing but the results of its first phases is left.

    Args:
        config: what to train.
        log: called every ten steps with the step and its scalars.
        show: called with every saved state with the step and a picture, uint8 RGB [H,W,3]: a row
            for each of up to four samples.
        data: what `open_data(config)` gave, where it was called before.

    Returns:
        The checkpoint that holds the phase's averaged weights.

    Raises:
        TrainingError: the phase needs what is not there, the saved state belongs to other
            settings, or the loss is not finite; then the batch lies beside the state and no
            weights are touched.
        CheckpointError: a checkpoint to start or learn from is of another preset, phase or
            network.
        InputError: as `open_data`.
    """
    phase = _phase(config)
    config.output.mkdir(parents=True, exist_ok=True)
    result, all_stages = result_of(config.output, config.phase), config.output / CHECKPOINT
    for file in (result, all_stages):
        check_preset(file, config.preset)
    data = data or open_data(config)
    settings = {**_settings(config, phase), "length": len(data)}
    # a result that says nothing of settings is a network from elsewhere, which is trained anew
    if not result.exists() or (finished := settings_of(result)) is None:
        network = _train(config, phase, data, settings, log, show)
        # after the loop, so that a run that was killed just before it writes the file when repeated
        save_checkpoint(result, config.preset, {phase.network: network}, config.phase, settings)
    else:
        _check_settings(result, finished, settings)
    if phase.network in STAGES:
        # what the next phases and another clone start from, to the last bit
        network = load_network(result, config.preset, phase.network)
        save_checkpoint(all_stages, config.preset, {phase.network: network})
    return result


def _train(
    config: TrainingConfig,
    phase: Phase,
    data: AnyBatches,
    settings: _Settings,
    log: Callable[[int, dict[str, float]], None] | None,
    show: Callable[[int, NDArray[np.uint8]], None] | None,
) -> nn.Module:
    """The averaged network after all steps of a phase, from its last saved state on."""
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _channels_last(_initial(config, phase).to(device).train())
    knowledge = _knowledge(config, phase, device)
    if phase.frozen and getattr(network, phase.frozen) is not None:
        network.get_submodule(phase.frozen).requires_grad_(False)
    averaged = AveragedModel(network, multi_avg_fn=_averaging(config.average), use_buffers=True)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rise_and_fall(config.steps))

    state_file = config.output / f"{config.phase}.state.pt"
    step = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        _check_settings(state_file, state["settings"], settings)
        step = state["step"]
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        # the rate may be another one now, which is how a run that diverged goes on
        schedule.base_lrs = [config.learning_rate]
        for group, rate in zip(optimiser.param_groups, schedule.get_lr(), strict=True):
            group["lr"] = rate
        data.random.bit_generator.state = json.loads(state["random"])
        torch.set_rng_state(state["torch_random"].cpu())

    # a processor without bfloat16 units computes it many times slower than float32
    has_bfloat16 = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    batches: Iterator[Fields] = iter(data)
    bar = tqdm(total=config.steps, initial=step, desc=config.phase, unit="step", mininterval=5)
    while step < config.steps:
        batch = next(batches).apply(lambda tensor: tensor.to(device, non_blocking=True))
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16):
            loss, scalars, pictures = phase.loss(network, batch, knowledge)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(learning, 5.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            file = config.output / f"{config.phase}.nan-batch.pt"
            torch.save(batch.tensors, file)
            raise TrainingError(
                Code.TRAINING_DIVERGED,
                f"{config.phase}: the loss is {loss.item()} and its gradient {norm.item()} at step "
                f"{step}, which is not finite; the batch is in {file}, and the last saved state is "
                "untouched",
                fix="go on from it with a lower --learning-rate",
            )
        optimiser.step()
        schedule.step()
        averaged.update_parameters(network)
        step += 1
        bar.update()
        if step % 10 == 0:
            scalars = {"loss": loss.item(), **scalars}
            bar.set_postfix({k: f"{v:.4g}" for k, v in scalars.items()}, refresh=False)
            if log:
                log(step, scalars)
        if step % config.save_every == 0 or step == config.steps:
            state = {
                "settings": settings,
                "step": step,
                "network": network.state_dict(),
                "averaged": averaged.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "random": json.dumps(data.random.bit_generator.state),
                "torch_random": torch.get_rng_state(),
            }
            with replacing(state_file) as temporary:
                torch.save(state, temporary)
            if show:
                show(step, _picture(pictures()))
    bar.close()
    return averaged.module


def _phase(config: TrainingConfig) -> Phase:
    """The phase of a configuration, if it can be trained at all."""
    if config.phase == "aligning" and config.phase not in phases_of(config.preset):
        raise TrainingError(
            Code.CONFIG_INVALID,
            f"preset {config.preset!r} has no STN to train in phase 'aligning'",
            fix="begin with 'warping'",
        )
    weights = config.weights
    if config.phase == "transfer-parsing" and not (weights.response or weights.feature):
        raise TrainingError(
            Code.CONFIG_INVALID,
            "phase 'transfer-parsing' has nothing to learn: response and feature are both 0",
        )
    return PHASES[config.phase]


def _initial(config: TrainingConfig, phase: Phase) -> nn.Module:
    """The phase's network before the first step."""
    after = phase.after if phase.after in phases_of(config.preset) else ""
    if config.initial is not None:
        return load_network(config.initial, config.preset, phase.network)
    if not after:
        return build_network(config.preset, phase.network)
    file = result_of(config.output, after)
    if not file.is_file():
        raise TrainingError(
            Code.CHECKPOINT_INVALID,
            f"phase {config.phase!r} goes on from {after!r}, whose result {file} is not there",
            fix=f"train {after!r} first, or give a checkpoint with --initial",
        )
    return load_network(file, config.preset, phase.network, [after])


def _knowledge(config: TrainingConfig, phase: Phase, device: torch.device) -> Knowledge:
    """The networks that the phase learns from, frozen."""
    networks = {}
    for name in phase.needed(config.weights):
        file = config.knowledge.get(name, result_of(config.output, LEARNT_IN[name]))
        if not file.is_file():
            raise TrainingError(
                Code.CHECKPOINT_INVALID,
                f"phase {config.phase!r} learns from {name}, but there is no {file}",
                fix=f"train phase {LEARNT_IN[name]!r} first, or name a checkpoint with "
                f"--knowledge {name}=FILE",
            )
        network = load_network(file, config.preset, name).to(device).requires_grad_(False)
        networks[name] = _channels_last(network)
    return Knowledge(config.weights, networks)


def _channels_last(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _picture(columns: Sequence[Tensor]) -> NDArray[np.uint8]:
    """A row for each of the first four samples: images [N,H,W,3] and coloured parsings [N,H,W]."""
    colours = torch.tensor(COLOURS, dtype=torch.uint8)
    images = [x if x.ndim == 4 else colours[x.long()] for x in (c[:4].cpu() for c in columns)]
    return torch.cat(images, dim=2).flatten(0, 1).numpy()


def _settings(config: TrainingConfig, phase: Phase) -> _Settings:
    """What must not change between a state and its continuation."""
    same = ("phase", "preset", "steps", "batch", "average", "seed")
    return {
        **{name: getattr(config, name) for name in same},
        "initial": str(config.initial) if config.initial else "",
        "weights": msgspec.structs.asdict(config.weights),
        "knowledge": {
            name: str(config.knowledge.get(name, "")) for name in phase.needed(config.weights)
        },
    }


def _check_settings(file: Path, before: _Settings, now: _Settings) -> None:
    """Raises TrainingError unless what a state or a result was trained with is what holds now."""
    differences = [
        f"{key} was {before.get(key)!r} and is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise TrainingError(
            Code.CONFIG_INVALID,
            f"{file} was written with other settings: {', '.join(differences)}",
            fix="repeat the former or choose another output folder",
        )


def _averaging(decay: float) -> Callable[[PARAM_LIST, PARAM_LIST, Tensor | int], None]:
    """`get_ema_multi_avg_fn`, with a decay that grows to `decay` with the steps averaged so far.

    By (1 + steps) / (10 + steps), as TensorFlow's ExponentialMovingAverage does.
    """

    def average(averaged: PARAM_LIST, current: PARAM_LIST, steps: Tensor | int) -> None:
        done = int(steps)  # on a GPU this waits for it
        get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(averaged, current, steps)

    return average


def _rise_and_fall(steps: int) -> Callable[[int], float]:
    rise = max(1, round(0.03 * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
