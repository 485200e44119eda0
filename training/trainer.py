"""The training loop: one phase, resumable after a kill at any point."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from garment_transfer.models.checkpoint import load_checkpoint, save_checkpoint
from garment_transfer.models.presets import build
from garment_transfer.runtime.errors import GarmentTransferError
from garment_transfer.runtime.files import replacing
from garment_transfer.training.data import TransferBatches
from garment_transfer.training.phases import PHASES


class TrainingError(GarmentTransferError):
    """Training that cannot start or go on; the message says why and what would mend it."""


@dataclass(frozen=True)
class TrainingConfig:
    """One phase of training.

    Attributes:
        phase: a key of `PHASES`.
        preset: a key of `garment_transfer.models.presets.PRESETS`.
        data: folder of rendered shards.
        output: the run's folder; `checkpoint.safetensors` in it gets the stage's weights.
        steps: optimiser steps in all.
        batch: transfers per step.
        learning_rate: the highest; it rises over 3 % of the steps and falls as a cosine.
        average: decay of the moving average of the weights, which is what is kept.
        seed: of initial weights and of the order of the data.
        save_every: steps between two saved states.
        initial: a checkpoint of the same preset whose weights the stage starts from.
    """

    phase: str
    preset: str
    data: Path
    output: Path
    steps: int
    batch: int = 8
    learning_rate: float = 1e-3
    average: float = 0.998
    seed: int = 0
    save_every: int = 200
    initial: Path | None = None


def train(
    config: TrainingConfig, log: Callable[[int, dict[str, float]], None] | None = None
) -> Path:
    """Train one phase, from its last saved state if there is one.

    Args:
        config: what to train.
        log: called every ten steps with the step and its scalars.

    Returns:
        The checkpoint that holds the stage's averaged weights.

    Raises:
        TrainingError: the phase is unknown, the saved state belongs to other settings, or the
            loss is not finite; then the batch lies beside the state and no weights are touched.
    """
    if config.phase not in PHASES:
        raise TrainingError(f"unknown phase {config.phase!r}; available: {', '.join(PHASES)}")
    phase = PHASES[config.phase]
    config.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _initial(config, phase.stage).to(device).train()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True
    )
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rise_and_fall(config.steps))
    data = TransferBatches(config.data, config.batch, config.seed)

    settings = {**_settings(config), "groups": len(data.groups)}
    state_file = config.output / f"{config.phase}.state.pt"
    step = 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        if state["settings"] != settings:
            raise TrainingError(
                f"{state_file} was written with other settings ({state['settings']}); "
                f"now {settings}: repeat the former or choose another output folder"
            )
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

    # a processor without bfloat16 units computes it many times slower than float32
    half = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    batches = iter(data)
    bar = tqdm(total=config.steps, initial=step, desc=config.phase, unit="step", mininterval=5)
    while step < config.steps:
        batch = next(batches).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, scalars = phase.loss(network, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            file = config.output / f"{config.phase}.nan-batch.pt"
            torch.save(asdict(batch), file)
            raise TrainingError(
                f"{config.phase}: the loss is {loss.item()} and its gradient {norm.item()} at step "
                f"{step}, which is not finite; the batch is in {file}. The last saved state is "
                "untouched: go on from it with a lower --learning-rate"
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
            }
            with replacing(state_file) as temporary:
                torch.save(state, temporary)
    bar.close()
    # after the loop, so that a run that was killed just before it writes the file when repeated
    checkpoint = config.output / "checkpoint.safetensors"
    save_checkpoint(checkpoint, config.preset, {phase.stage: averaged.module})
    return checkpoint


def _initial(config: TrainingConfig, stage: str) -> nn.Module:
    """The stage's network before the first step."""
    if config.initial is None:
        return build(config.preset)[stage]
    preset, networks = load_checkpoint(config.initial)
    if preset != config.preset or stage not in networks:
        raise TrainingError(
            f"{config.initial} holds {', '.join(networks)} of preset {preset!r}; to start from it, "
            f"it has to hold {stage} of {config.preset!r}"
        )
    return networks[stage]


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """What must not change between a state and its continuation."""
    return {
        "phase": config.phase,
        "preset": config.preset,
        "steps": config.steps,
        "batch": config.batch,
        "average": config.average,
        "seed": config.seed,
        "initial": str(config.initial) if config.initial else "",
    }


def _rise_and_fall(steps: int) -> Callable[[int], float]:
    rise = max(1, round(0.03 * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
