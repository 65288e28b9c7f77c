"""The command that torchrun starts in every process: torchrun -m plumb_torch --job job.json --output folder."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch

from .data_set import ArtifactFolder, read_data_set
from .errors import EXIT_DONE, EXIT_TRY_AGAIN, JobError, misconfigured
from .job import Model, read_job
from .manifest import job_manifest
from .process_group import ProcessGroup
from .tensor_file import sha256_of, write_durably
from .trainee import Trainee
from .training import StoppedError, run_job
from .training_set import freeze_training_set


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="plumb_torch", description="Trains a video model on AI feedback with PyTorch (docs/distributed-training.md)."
    )
    parser.add_argument("--job", type=Path, required=True, help="the job: a JSON file")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints, progress and the trained model")
    parser.add_argument("--artifacts", type=Path, help="folder of artifacts by hash: sha256/<first two digits>/<hash>")
    parser.add_argument(
        "--parallel", choices=("ddp", "fsdp"), default="fsdp", help="what processes share: ddp a batch, fsdp weights too"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu", help="what computes"
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    try:
        return _train(options)
    except StoppedError:
        return EXIT_TRY_AGAIN
    except JobError as error:
        described = {"code": error.code, "reason": error.reason, "message": error.message}
        print(json.dumps({"error": described}), file=sys.stderr, flush=True)
        return error.exit_code


def _train(options: argparse.Namespace) -> int:
    output: Path = options.output
    job = read_job(options.job, options.artifacts)
    if options.artifacts is None:
        raise misconfigured("--artifacts", "is missing; give the folder that has the clips of the data set")
    artifacts = ArtifactFolder(options.artifacts)
    output.mkdir(parents=True, exist_ok=True)
    _claim(output, options.job)
    if (output / "manifest.json").is_file():
        return EXIT_DONE
    data_set = read_data_set(job.data_set.path, job.data_set.sha256)
    training_set = freeze_training_set(data_set.labelled(job.reward), job.objective, job.numeric_seed)
    group = ProcessGroup(options.device)
    try:
        group.rows(job.optimisation.batch_size)
        if job.base.is_folder:
            from .diffusers_trainee import DiffusersTrainee

            trainee: Trainee = DiffusersTrainee(job, data_set, training_set, artifacts, group.device)
        else:
            from .built_in_trainee import BuiltInTrainee

            trainee = BuiltInTrainee(job, data_set, training_set, artifacts, group.device)
        values = run_job(job, training_set, trainee, group, options.parallel, output)
        if group.is_first:
            stored = trainee.encode(values)
            manifest = job_manifest(
                job,
                data_set,
                training_set,
                stored,
                parameter_count=trainee.parameter_count,
                hashes={"base": model_hash(job.base), "reference": model_hash(job.reference)},
                group=group,
                parallel=options.parallel,
            )
            for name, data in (("model.safetensors", stored.model), ("adapters.safetensors", stored.adapters)):
                if data is not None:
                    write_durably(output / name, data)
            # Last: it says that everything else is there.
            write_durably(output / "manifest.json", manifest)
        return EXIT_DONE
    finally:
        group.close()


def _claim(output: Path, job: Path) -> None:
    """A folder belongs to one job, or a changed job would go on from another's checkpoint."""
    text, kept = job.read_bytes(), output / "job.json"
    if not kept.is_file():
        write_durably(kept, text)
    elif kept.read_bytes() != text:
        raise misconfigured(
            "--output", f"{output} holds another job ({kept} differs from {job}); give an empty folder, or that job"
        )


def model_hash(model: Model) -> str:
    """Of a file its own; of a folder that of the list of its files and their hashes."""
    path = model.source.path

    def digest(file: Path) -> str:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    if path.is_file():
        return digest(path)
    files = sorted(one for one in path.rglob("*") if one.is_file())
    lines = [f"{digest(one)}  {one.relative_to(path).as_posix()}\n" for one in files]
    return sha256_of("".join(lines).encode())


if __name__ == "__main__":
    sys.exit(main())
