"""Runs a job from its last checkpoint, or from its beginning, to its end."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from .batches import BatchPlan, mismatch_prompts
from .checkpoint import CheckpointFolder, TrainingState, read_state
from .denoiser import TrainedParameter
from .errors import data_loss, diverged
from .job import Job
from .objective import TrainingLoss, predict_reference
from .process_group import Parallel, ProcessGroup, local, spread_like, whole
from .progress import DivergenceGuard, ProgressFile, progress_point
from .settings import FORWARD
from .tensor_file import Array
from .trainee import DrawnItem, Trainee
from .training_set import TrainingSet
from .video_dit import noised_and_target

# As packages/diffusion/src/optimisation.ts; beta2 below the usual 0.999 follows the changing gradients of noisy times faster.
_BETAS = (0.9, 0.98)
_EPSILON = 1e-8
# Clips of the probe that the anchor distance is measured on.
_PROBE_CLIPS = 8


class StoppedError(Exception):
    """The processes were asked to stop, and have written a checkpoint."""


class Training:
    """A job on the processes of a group. Steps are taken in order."""

    def __init__(self, job: Job, training_set: TrainingSet, trainee: Trainee, group: ProcessGroup, parallel: Parallel) -> None:
        self._job = job
        self._items = training_set.items
        self._trainee = trainee
        self._group = group
        self._rows = group.rows(job.optimisation.batch_size)
        objective = job.objective
        self._plan = BatchPlan(
            self._items,
            seed=job.numeric_seed,
            batch_size=job.optimisation.batch_size,
            balance=objective.balance,
            weighting=objective.weighting if objective.algorithm in FORWARD else "resample",
        )
        policy, reference = trainee.policy.to(group.device), trainee.reference
        if reference is not None:
            reference.to(group.device)
        if group.is_distributed and parallel == "fsdp":
            group.shard(policy)
            if reference is not None:
                group.shard(reference)
        self._policy = policy
        self._reference = reference
        loss = TrainingLoss(objective, policy, reference, group.batch_mean)
        self._loss = group.replicate(loss) if group.is_distributed and parallel == "ddp" else loss
        self._parameters: list[TrainedParameter] = policy.trained()
        decay = job.optimisation.weight_decay
        self._optimiser = torch.optim.AdamW(
            [
                {"params": [one.parameter], "scale": one.rate_scale, "weight_decay": decay if one.decays else 0.0}
                for one in self._parameters
            ],
            lr=job.optimisation.learning_rate,
            betas=_BETAS,
            eps=_EPSILON,
        )
        self._ema = (
            [local(one.parameter).detach().clone() for one in self._parameters] if job.optimisation.ema_decay > 0 else []
        )
        self._probe: tuple[Tensor, dict[str, Tensor], Tensor] | None = None
        self.step = 0

    def restore(self, state: TrainingState) -> None:
        """Goes on from a state. Raises JobError DATA_LOSS where it is another job's."""
        self.step = state.step
        for place, one in enumerate(self._parameters):

            def values(part: str, trained: TrainedParameter = one) -> Tensor:
                found = state.parts[part].get(trained.name)
                shape = trained.parameter.shape
                if found is None or found.size != math.prod(shape):
                    raise data_loss(
                        f"the checkpoint of step {state.step} does not fit the job: {part}/{trained.name} is missing or "
                        f"does not have {math.prod(shape)} values; remove it, or use the job that it belongs to"
                    )
                tensor = torch.from_numpy(found.reshape(shape)).to(self._group.device)
                return spread_like(tensor, trained.parameter)

            with torch.no_grad():
                local(one.parameter).copy_(values("parameters"))
                if self._ema:
                    self._ema[place].copy_(values("ema"))
            moments = self._optimiser.state[one.parameter]
            moments["step"] = torch.tensor(float(state.step), dtype=torch.float32)
            for key, part in (("exp_avg", "firstMoment"), ("exp_avg_sq", "secondMoment")):
                moments[key] = torch.zeros_like(one.parameter)
                local(moments[key]).copy_(values(part))

    def state(self) -> TrainingState:
        """All that is needed to go on; every process has to ask."""
        parts: dict[str, dict[str, Array]] = {"parameters": {}, "ema": {}, "firstMoment": {}, "secondMoment": {}}
        for place, one in enumerate(self._parameters):
            moments = self._optimiser.state[one.parameter]
            parts["parameters"][one.name] = _array(one.parameter)
            parts["firstMoment"][one.name] = _array(moments["exp_avg"])
            parts["secondMoment"][one.name] = _array(moments["exp_avg_sq"])
            if self._ema:
                parts["ema"][one.name] = self._ema_array(place)
        return TrainingState(self.step, parts, self._group.size)

    def trained_values(self) -> dict[str, Array]:
        """What the model is stored with: the moving average, or the weights where there is none."""
        return {
            one.name: self._ema_array(place) if self._ema else _array(one.parameter)
            for place, one in enumerate(self._parameters)
        }

    def _ema_array(self, place: int) -> Array:
        parameter = self._parameters[place].parameter
        spread = torch.empty_like(parameter)
        local(spread).copy_(self._ema[place])
        return _array(spread)

    def advance(self) -> tuple[dict[str, float], float]:
        """
        Takes one step.

        Returns loss and metrics, as means over the whole batch, and the gradient's norm before it is clipped.
        """
        optimisation = self._job.optimisation
        feeds = self._trainee.feeds(
            self._draw(self.step),
            self._rows,
            seed=str(self._job.seed),
            step=self.step,
            caption_dropout=optimisation.caption_dropout,
        ).to(self._group.device)
        low = optimisation.precision == "bfloat16"
        with torch.autocast(self._group.device.type, torch.bfloat16, enabled=low):
            loss, metrics = self._loss(feeds)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [one.parameter for one in self._parameters]
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, optimisation.clip_norm))
        rate = optimisation.learning_rate_at(self.step)
        for parameter_group in self._optimiser.param_groups:
            parameter_group["lr"] = rate * parameter_group["scale"]
        self._optimiser.step()
        if self._ema:
            with torch.no_grad():
                values = [local(parameter) for parameter in parameters]
                torch._foreach_lerp_(self._ema, values, 1 - optimisation.ema_decay_at(self.step))
        self.step += 1
        names = ["loss", *metrics]
        reported = torch.stack([loss.detach().double(), *(metrics[name].detach().double() for name in metrics)])
        return dict(zip(names, self._group.mean(reported).tolist(), strict=True)), float(norm.item())

    def _draw(self, step: int) -> list[DrawnItem]:
        batch = self._plan.batch(step)
        items = [self._items[index] for index in batch.indices]
        objective = self._job.objective
        others: list[str | None] = [None] * len(items)
        if objective.algorithm == "kto" and objective.kl_estimate == "mismatched":
            others = [items[place].prompt_id for place in mismatch_prompts([item.prompt_id for item in items])]
        weights = batch.loss_weights.tolist()
        return [DrawnItem(*drawn) for drawn in zip(items, weights, others, strict=True)]

    @torch.no_grad()
    def anchor_distance(self) -> float:
        """Mean of ||policy - reference||^2 over fixed clips, noise and times; every process computes all of it."""
        if self._probe is None:
            count = min(_PROBE_CLIPS, len(self._items))
            items = [self._items[place * len(self._items) // count] for place in range(count)]
            feeds = self._trainee.feeds(
                [DrawnItem(item, 1.0, None) for item in items],
                range(count),
                seed=f"{self._job.seed} anchor probe",
                step=0,
                caption_dropout=0.0,
            ).to(self._group.device)
            noised, _ = noised_and_target(self._policy.parameterisation, feeds.x0, feeds.noise, feeds.signal, feeds.noise_level)
            inputs = feeds.levels | feeds.text
            self._probe = (noised, inputs, predict_reference(self._policy, self._reference, noised, inputs))
        noised, inputs, expected = self._probe
        return float((self._policy(noised, inputs) - expected).square().mean().item())


def run_job(
    job: Job,
    training_set: TrainingSet,
    trainee: Trainee,
    group: ProcessGroup,
    parallel: Parallel,
    output: Path,
) -> dict[str, Array]:
    """
    Trains to the end and gives the trained values, by name of parameter. A run that was killed anywhere and goes on from its
    last checkpoint with as many processes and threads ends bit for bit as one that never was.

    Raises JobError (TRAINING_DIVERGED), or StoppedError after SIGTERM.
    """
    checkpoints = CheckpointFolder(output / "state")
    training = Training(job, training_set, trainee, group, parallel)
    resumed_at = group.from_first(checkpoints.newest_step())
    if resumed_at > 0:
        training.restore(read_state(checkpoints.path(resumed_at)))
    progress = ProgressFile(output / "progress.jsonl", resumed_at) if group.is_first else None
    guard = DivergenceGuard(job.max_anchor_distance)
    for point in progress.points if progress is not None else []:
        guard.check(point)
    stopping = _Stopping()
    steps = job.optimisation.steps
    while training.step < steps:
        point = _step(job, training, training_set)
        if progress is not None:
            progress.add(point)
            guard.check(point)
        elif not math.isfinite(point["loss"]) or not math.isfinite(point["gradientNorm"]):
            raise diverged(training.step, "the loss or the gradient norm is not finite")
        asked = group.mean(torch.tensor(float(stopping.asked), device=group.device)).item() > 0
        if asked or training.step == steps or training.step % job.checkpoint_every_steps == 0:
            state = training.state()
            if group.is_first:
                checkpoints.write(state)
        if group.is_first:
            # Who reads this finds the checkpoint of the step, where there is one.
            print(json.dumps(point), flush=True)
        if asked and training.step < steps:
            raise StoppedError
    values = training.trained_values()
    _check_finite(values, steps)
    return values


def _step(job: Job, training: Training, training_set: TrainingSet) -> dict[str, Any]:
    begin = time.perf_counter()
    metrics, norm = training.advance()
    seconds = time.perf_counter() - begin
    optimisation = job.optimisation
    every, done = job.anchor_every_steps, training.step
    if every is not None and (done % every == 0 or done == optimisation.steps):
        metrics["anchor_distance"] = training.anchor_distance()
    return progress_point(
        job_id=job.job_id,
        step=done,
        total_steps=optimisation.steps,
        metrics=metrics,
        gradient_norm=norm,
        learning_rate=optimisation.learning_rate_at(done - 1),
        seconds=seconds,
        batch_size=optimisation.batch_size,
        weight_spread=training_set.weight_spread(),
    )


class _Stopping:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True


def _array(tensor: Tensor) -> Array:
    array: Array = whole(tensor.detach()).to("cpu", torch.float32).numpy().copy()
    return array


def _check_finite(values: Mapping[str, Array], step: int) -> None:
    """The last step may have left a loss that is finite and weights that are not."""
    for name, array in values.items():
        if not torch.isfinite(torch.from_numpy(array)).all():
            raise diverged(step, f"{name} ends with values that are not finite")
