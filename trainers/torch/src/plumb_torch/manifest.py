"""The manifest of a job (services/trainer/domain/job-manifest.ts): from what it can be repeated, and what came out."""

from __future__ import annotations

from typing import Any

import torch

from .canonical_json import canonical_json
from .data_set import DataSet
from .job import Job
from .process_group import Parallel, ProcessGroup
from .tensor_file import sha256_of
from .trainee import Output
from .training_set import TrainingSet


def job_manifest(
    job: Job,
    data_set: DataSet,
    training_set: TrainingSet,
    output: Output,
    *,
    parameter_count: int,
    hashes: dict[str, str],
    group: ProcessGroup,
    parallel: Parallel,
) -> bytes:
    """
    Canonical JSON without times: the same job run twice on as many processes gives the same bytes. `hashes` are those of base
    and reference.
    """
    statistics = training_set.statistics
    described: dict[str, Any] = {
        "kind": "plumb.training-job",
        "version": 1,
        "engine": {
            "name": "torch",
            "version": torch.__version__,
            "processes": group.size,
            "parallel": parallel if group.is_distributed else "none",
        },
        "dataSet": {"sha256": data_set.sha256, "trainingSetHash": training_set.hash(), "reward": job.reward},
        "base": {"version": job.base.version, "sha256": hashes["base"]},
        "reference": {"version": job.reference.version, "sha256": hashes["reference"]},
        "objective": job.objective.as_json(),
        "optimisation": job.optimisation.as_json(),
        "maxAnchorDistance": job.max_anchor_distance,
        "seed": str(job.seed),
        "threads": torch.get_num_threads(),
        "counts": {
            "samples": statistics["samples"],
            "scored": statistics["scored"],
            "items": len(training_set.items),
            "excluded": len(training_set.exclusions),
            "uninformativePromptRatio": statistics["uninformativePromptRatio"],
            "effectiveSampleSize": statistics["effectiveSampleSize"],
            "steps": job.optimisation.steps,
            "parameters": parameter_count,
        },
        "exclusions": [one.as_json() for one in training_set.exclusions],
        "result": {
            **({} if output.model is None else {"sha256": sha256_of(output.model)}),
            **({} if output.adapters is None else {"adapters": sha256_of(output.adapters)}),
        },
    }
    if job.adapters is not None:
        described["adapters"] = job.adapters.as_json()
    return canonical_json(described).encode()
