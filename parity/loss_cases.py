"""Every loss, on random predictions: value, reported scalars and gradients in the policy's predictions."""

import numpy as np
import torch
from plumb_torch.losses import dpo, forward_projection, kto

from case_writer import random_of

BATCH = 4
SHAPE = (BATCH, 3, 2, 3)


def add_loss_cases(writer):
    def case(name, algorithm, loss, settings, groups, extras, check=None):
        """`groups` are the sets of predictions, each with the size of policy's and reference's errors."""
        random = random_of(name)
        tensors = {}
        for group, (policy_error, reference_error) in groups.items():
            target = random.standard_normal(SHAPE)
            tensors[f"{group}.target"] = target
            tensors[f"{group}.policy"] = target + policy_error * random.standard_normal(SHAPE)
            tensors[f"{group}.reference"] = target + reference_error * random.standard_normal(SHAPE)
        for key, values in extras.items():
            tensors[key] = np.array(values)
        tensors = {key: array.astype(np.float32) for key, array in tensors.items()}
        live = {
            key: torch.tensor(array, dtype=torch.float64, requires_grad=key.endswith(".policy"))
            for key, array in tensors.items()
        }
        value, metrics = loss(live)
        if check is not None:
            check(metrics)
        policies = [key for key in live if key.endswith(".policy")]
        # The policy under mismatched prompts only sets the reference point, which passes no gradient: zeros.
        found = torch.autograd.grad(value, [live[key] for key in policies], materialize_grads=True)
        writer.add(
            "losses",
            name,
            {
                **{f"input.{key}": array for key, array in tensors.items()},
                "loss": value,
                **{f"metric.{key}": metric for key, metric in metrics.items()},
                **{f"gradient.{key}": gradient for key, gradient in zip(policies, found)},
            },
            settings={"algorithm": algorithm, **settings},
            groups=list(groups),
            extras=list(extras),
            metrics=list(metrics),
        )

    weights = {"weights": [0.25, 2.0, 1.0, 0.75]}
    own = lambda live, group="own": (live[f"{group}.target"], live[f"{group}.policy"], live[f"{group}.reference"])

    for algorithm in ("sft", "filtered-sft", "rwr"):
        for anchor in (0.0, 0.3):
            case(
                f"{algorithm}, klAnchor {anchor}",
                algorithm,
                lambda live, a=anchor: forward_projection(*own(live), live["weights"], a),
                {"klAnchor": anchor},
                {"own": (0.5, 0.6)},
                weights,
            )
    for beta, errors in ((5.0, (0.5, 0.6)), (500.0, (0.1, 0.12))):
        case(
            f"dpo, beta {beta:g}",
            "dpo",
            lambda live, b=beta: dpo(own(live, "chosen"), own(live, "rejected"), live["weights"], b),
            {"beta": beta},
            {"chosen": errors, "rejected": errors},
            weights,
        )

    case(
        "dpo, sftAnchor 3",
        "dpo",
        lambda live: dpo(own(live, "chosen"), own(live, "rejected"), live["weights"], 5.0, 3.0),
        {"beta": 5.0, "sftAnchor": 3.0},
        {"chosen": (0.5, 0.6), "rejected": (0.5, 0.6)},
        weights,
    )
    # With rejected samples alone and z0 above 0 the mean margin would be exactly 0, which has no relative error.
    for accepted, errors in (([1.0, 0.0, 0.0, 1.0], (0.5, 0.7)), ([0.0, 0.0, 0.0, 0.0], (0.7, 0.5))):
        case(
            f"kto, sftAnchor 3, {sum(accepted):g} accepted",
            "kto",
            lambda live: kto(own(live), None, live["accepted"], live["weights"], 5.0, 3.0),
            {"beta": 5.0, "klEstimate": "batch", "sftAnchor": 3.0},
            {"own": errors},
            {**weights, "accepted": accepted},
        )

    def reference_point_is(positive):
        def check(metrics):
            if (metrics["reference_point"].item() > 0) != positive:
                raise ValueError(f"the reference point is {metrics['reference_point'].item()}")

        return check

    labels = {**weights, "accepted": [1.0, 0.0, 0.0, 1.0]}
    # The policy's error is below the reference's where the reference point is to be above 0.
    for positive, errors in ((True, (0.5, 0.7)), (False, (0.7, 0.5))):
        sign = "above 0" if positive else "at 0"
        case(
            f"kto, batch estimate {sign}",
            "kto",
            lambda live: kto(own(live), None, live["accepted"], live["weights"], 5.0),
            {"beta": 5.0, "klEstimate": "batch"},
            {"own": errors},
            labels,
            reference_point_is(positive),
        )
        case(
            f"kto, mismatched estimate {sign}",
            "kto",
            lambda live: kto(own(live), own(live, "mismatched"), live["accepted"], live["weights"], 5.0),
            {"beta": 5.0, "klEstimate": "mismatched"},
            {"own": (0.5, 0.6), "mismatched": errors},
            labels,
            reference_point_is(positive),
        )
