"""Errors of a job, with the codes and reasons of Plumb's own (packages/kit, errors)."""

from typing import Final

# Exit codes of a training job's process (services/trainer/domain/exit-codes.ts).
EXIT_DONE: Final = 0
EXIT_FAILED: Final = 65
EXIT_TRY_AGAIN: Final = 75
EXIT_CONFIGURATION: Final = 78


class JobError(Exception):
    """
    What is wrong with a job: the message names the field, its value and the fix.

    `code` is a gRPC code, `reason` one of Plumb's list of reasons.
    """

    def __init__(self, code: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    @property
    def exit_code(self) -> int:
        """65 where another try would end in the same way."""
        if self.reason == "CONFIGURATION_INVALID":
            return EXIT_CONFIGURATION
        return EXIT_FAILED


def invalid(field: str, description: str, reason: str = "INVALID_FIELD") -> JobError:
    """A setting that is wrong."""
    return JobError("INVALID_ARGUMENT", reason, f"{field}: {description}")


def misconfigured(setting: str, description: str) -> JobError:
    """An argument of the command, not of the job, that is wrong."""
    return JobError("INVALID_ARGUMENT", "CONFIGURATION_INVALID", f"{setting}: {description}")


def unusable(field: str, description: str) -> JobError:
    """A data set that cannot be trained on."""
    return JobError("FAILED_PRECONDITION", "DATASET_UNUSABLE", f"{field}: {description}")


def data_loss(message: str) -> JobError:
    """A file that is damaged or is not what it should be."""
    return JobError("DATA_LOSS", "ARTIFACT_CORRUPT", message)


def diverged(step: int, description: str) -> JobError:
    """Training that went wrong at a step, counted from 1."""
    return JobError(
        "INTERNAL",
        "TRAINING_DIVERGED",
        f"training diverged at step {step}: {description}; the last checkpoint is kept, lower optimisation.learningRate",
    )
