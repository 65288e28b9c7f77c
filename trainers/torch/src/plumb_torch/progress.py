"""What a job says of its steps, and when it has gone wrong (services/trainer/domain/divergence.ts)."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from .errors import diverged

# Steps whose losses make the yardstick of a spike, and how many of them are needed.
_WINDOW = 50
_FEWEST = 20
# A loss beyond this many median absolute deviations above the median, and twice the median, is a spike.
_DEVIATIONS = 20
# One may be an unlucky draw of times, three in a row are a trend.
_SPIKES = 3

# Metrics of the objectives that progress has fields for (TrainingProgress of proto/plumb/trainer/v1).
_FIELDS = {
    "anchor_distance": "anchorDistance",
    "implicit_reward_margin": "implicitRewardMargin",
    "implicit_reward_accuracy": "implicitRewardAccuracy",
    "sft_error": "sftError",
}


def progress_point(
    *,
    job_id: str,
    step: int,
    total_steps: int,
    metrics: dict[str, float],
    gradient_norm: float,
    learning_rate: float,
    seconds: float,
    batch_size: int,
    weight_spread: float | None,
) -> dict[str, Any]:
    """One line of progress: a TrainingProgress as protobuf's JSON has it. `step` counts from 1."""
    point: dict[str, Any] = {
        "jobId": job_id,
        "step": step,
        "totalSteps": total_steps,
        "loss": metrics["loss"],
        "gradientNorm": gradient_norm,
        "learningRate": learning_rate,
        "stepSeconds": seconds,
        "samplesPerSecond": batch_size / seconds,
    }
    point |= {field: metrics[name] for name, field in _FIELDS.items() if name in metrics}
    return point if weight_spread is None else point | {"weightSpread": weight_spread}


class DivergenceGuard:
    """Watches the steps of one job. Its verdict follows from the points alone, so that a resumed job agrees."""

    def __init__(self, max_anchor_distance: float | None) -> None:
        self._max_anchor_distance = max_anchor_distance
        self._losses: list[float] = []
        self._spikes = 0

    def check(self, point: dict[str, Any]) -> None:
        """Raises JobError TRAINING_DIVERGED naming the limit that was crossed."""
        step, loss = point["step"], point["loss"]
        if not math.isfinite(loss) or not math.isfinite(point["gradientNorm"]):
            what = "gradient norm" if math.isfinite(loss) else "loss"
            raise diverged(step, f"the {what} is not finite")
        distance, most = point.get("anchorDistance"), self._max_anchor_distance
        if most is not None and distance is not None and not distance <= most:
            raise diverged(step, f"the anchor distance {distance} is above maxAnchorDistance {most}")
        limit = self._spike_limit()
        if loss > limit:
            # A spike does not enter the window: a run of them would become the new normal.
            self._spikes += 1
            if self._spikes >= _SPIKES:
                raise diverged(step, f"the loss {loss} is the {self._spikes}. in a row above {limit}")
            return
        self._spikes = 0
        self._losses = [*self._losses, loss][-_WINDOW:]

    def _spike_limit(self) -> float:
        if len(self._losses) < _FEWEST:
            return math.inf
        centre = statistics.median(self._losses)
        spread = statistics.median(abs(loss - centre) for loss in self._losses)
        return centre + max(_DEVIATIONS * spread, abs(centre))


class ProgressFile:
    """One JSON object a line, flushed after each."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        """Keeps the points up to the step that the job goes on from."""
        self._path = path
        self.points: list[dict[str, Any]] = []
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    point = json.loads(line)
                except ValueError:
                    # The last line of a process that was killed while it wrote.
                    break
                if point["step"] > resumed_at:
                    break
                self.points.append(point)
        path.write_text("".join(json.dumps(point) + "\n" for point in self.points))

    def add(self, point: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(point) + "\n")
