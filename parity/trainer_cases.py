"""
Whole jobs of trainers/torch: the same model, data set and seed as the ONNX engine is given, over twenty steps.

The inputs are files, as a job has them: a model, the manifest of a data set, and clips by hash.
"""

import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plumb_torch.built_in_trainee import BuiltInTrainee
from plumb_torch.data_set import ArtifactFolder, read_data_set
from plumb_torch.job import read_job
from plumb_torch.process_group import ProcessGroup
from plumb_torch.tensor_file import encode_tensors
from plumb_torch.training import Training
from plumb_torch.training_set import freeze_training_set

from case_writer import random_of
from model_cases import CONFIG, draw_weights

FOLDER = "trainers"
STEPS = 20
REWARD = "judge"
PROMPTS = {
    "p1": ("red ball falls", "FD"),
    "p2": ("the blue ball", "FD"),
    "p3": ("ball falls", "FD"),
    "p4": ("the red ball", "OR"),
    "p5": ("blue ball falls", "OR"),
    "p6": ("the ball", "OR"),
}
SAMPLES = 4

OPTIMISATION = {"steps": STEPS, "batchSize": 8, "learningRate": 1e-3, "weightDecay": 0.05, "warmupSteps": 3}
JOBS = {
    "job, sft": {"objective": {"algorithm": "sft"}, "optimisation": {**OPTIMISATION, "schedule": "cosine"}, "anchorEverySteps": 5},
    "job, filtered-sft, multiply": {
        "objective": {"algorithm": "filtered-sft", "weighting": "multiply", "balance": "prompt"},
        "optimisation": {**OPTIMISATION, "timesteps": {"kind": "uniform"}},
    },
    "job, rwr, klAnchor": {
        "objective": {"algorithm": "rwr", "klAnchor": 0.3, "weighting": "multiply", "normalisation": "per-prompt"},
        "optimisation": {**OPTIMISATION, "emaDecay": 0.9},
    },
    "job, dpo, sftAnchor": {
        "objective": {"algorithm": "dpo", "beta": 50, "sftAnchor": 2, "maxUsesPerSample": 3},
        "optimisation": {**OPTIMISATION, "clipNorm": 0.5, "captionDropout": 0.3},
    },
    "job, kto": {
        "objective": {"algorithm": "kto", "beta": 50, "shaping": {"standardise": "per-prompt"}, "acceptThreshold": 0},
        "optimisation": {**OPTIMISATION, "timesteps": {"kind": "window", "low": 0.2, "high": 0.9}},
    },
    "job, adapters": {
        "objective": {"algorithm": "rwr", "transform": "shaped", "shaping": {"eta": 2, "gamma": -0.1}},
        "optimisation": {**OPTIMISATION, "learningRate": 1e-2, "schedule": "constant"},
        "adapters": {"rank": 2, "alpha": 4},
    },
}


def write_inputs(folder):
    """Files that the jobs read. Clips are stored uncompressed, so that another zlib writes the same bytes."""
    artifacts = folder / "artifacts"

    def store(data):
        sha256 = hashlib.sha256(data).hexdigest()
        path = artifacts / "sha256" / sha256[:2] / sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return sha256

    config = json.dumps(CONFIG, separators=(",", ":"))
    model = encode_tensors(draw_weights("trainer/model"), {"plumb.config": config})
    (folder / "model.safetensors").write_bytes(model)
    video = CONFIG["video"]
    frames, height, width = (video[side] for side in ("frames", "height", "width"))
    random = random_of("trainer/clips")
    samples = []
    for prompt_id, (prompt, category) in PROMPTS.items():
        for place in range(SAMPLES):
            pixels = random.integers(60, 256, (frames * height, width, 3)).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG", compress_level=0)
            sha256 = store(file.getvalue())
            score = {"value": round(float(random.uniform(0, 1)), 3)}
            if (prompt_id, place) == ("p2", 1):
                score = {"error": {"code": "UNAVAILABLE", "reason": "JUDGE_UNAVAILABLE", "message": "the judge is away"}}
            samples.append(
                {
                    "sampleId": f"{prompt_id}-{place}",
                    "promptId": prompt_id,
                    "prompt": prompt,
                    "category": category,
                    "seed": str(place),
                    "video": {
                        "uri": f"artifact:{sha256}",
                        "sha256": sha256,
                        "mediaType": "image/png",
                        "width": width,
                        "height": height,
                        "frameCount": frames,
                        "fps": video["fps"],
                    },
                    "scores": {REWARD: score},
                }
            )
    model_hash = hashlib.sha256(model).hexdigest()
    manifest = {
        "kind": "plumb.data-set",
        "version": 1,
        "runId": "parity",
        "iteration": 1,
        "model": {"version": f"parity@{model_hash[:12]}", "sha256": model_hash},
        "promptSetHash": hashlib.sha256(b"parity").hexdigest(),
        "sampler": {"steps": 4, "guidance": 1.5, "shift": 1},
        "rewards": [{"name": REWARD, "version": "1", "weightsHash": ""}],
        "samples": samples,
        "excluded": [],
    }
    (folder / "data-set.json").write_text(json.dumps(manifest, separators=(",", ":"), sort_keys=True))


def job_file(name, job, folder):
    """The job as trainers/torch reads it."""
    return {
        "kind": "plumb.torch-job",
        "version": 1,
        "jobId": name,
        "dataSet": {"path": str(folder / "data-set.json")},
        "base": {"version": "parity", "path": str(folder / "model.safetensors")},
        "reward": REWARD,
        "seed": "18446744073709551615",
        "checkpointEverySteps": 5,
        **job,
    }


def add_trainer_cases(writer, out):
    folder = Path(out).resolve() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_inputs(folder)
    artifacts = ArtifactFolder(folder / "artifacts")
    group = ProcessGroup("cpu")
    for name, settings in JOBS.items():
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "job.json"
            path.write_text(json.dumps(job_file(name, settings, folder)))
            job = read_job(path, None)
        data_set = read_data_set(job.data_set.path, None)
        training_set = freeze_training_set(data_set.labelled(job.reward), job.objective, job.numeric_seed)
        trainee = BuiltInTrainee(job, data_set, training_set, artifacts, group.device)
        training = Training(job, training_set, trainee, group, "ddp")
        points, distances = [], []
        for _ in range(STEPS):
            metrics, norm = training.advance()
            points.append({**metrics, "gradientNorm": norm})
            if "anchorEverySteps" in settings and training.step % job.anchor_every_steps == 0:
                distances.append(training.anchor_distance())
        # The accuracy counts margins above 0, which rounding decides at the first step; the margins themselves are compared.
        names = [key for key in points[0] if key != "implicit_reward_accuracy"]
        tensors = {key: torch.tensor([point[key] for point in points]) for key in names}
        if distances:
            tensors["anchorDistance"] = torch.tensor(distances)
        writer.add(
            "trainers",
            name,
            tensors,
            job=settings,
            reward=REWARD,
            seed=str(job.seed),
            # exp and log of Python and of JavaScript differ in the last bit now and then.
            trainingSetHash=None if job.objective.algorithm == "rwr" else training_set.hash(),
            metrics=list(tensors),
        )
