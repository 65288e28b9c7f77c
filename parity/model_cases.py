"""The video DiT: predictions, gradients of all weights, whole objectives, and ten steps of training."""

import numpy as np
import torch
from plumb_torch.losses import dpo, forward_projection, kto
from plumb_torch.video_dit import Shape, denoise, factors, levels, noised_and_target

from case_writer import random_of

# No two extents of the token grid, the patch or the clip are equal, so that axes cannot be mixed up unseen.
CONFIG = {
    "format": 1,
    "name": "parity",
    "architecture": "video-dit",
    "video": {"frames": 4, "height": 9, "width": 8, "fps": 4},
    "pixels": {"mean": 0.8, "scale": 3},
    "patch": {"frames": 1, "height": 3, "width": 4},
    "hiddenSize": 16,
    "depth": 2,
    "heads": 2,
    "mlpRatio": 1.5,
    "caption": {"vocabulary": ["ball", "blue", "falls", "red", "the"], "maxWords": 3, "wordWidth": 4},
    "parameterisation": "flow",
    "sigmaData": 0.5,
}
BATCH = 4
CLIP = (BATCH, 3, 4, 9, 8)
WEIGHTS = Shape(CONFIG).parameters()

# The biases of attention's keys have a gradient of exactly 0, in float32 one of rounding errors; this epsilon keeps Adam
# from dividing those by their own size.
OPTIMISER = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1e-5, "weightDecay": 0.1, "clipNorm": 1.0}
RATES = [1e-3, 2e-3, 2e-3, 1.5e-3, 1e-3, 1e-3, 8e-4, 5e-4, 3e-4, 1e-4]
DECAYS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9, 0.95, 0.99, 0.99]
FEEDS = 3


def draw_weights(name):
    random = random_of(name)
    scale = lambda key, shape: 1 / np.sqrt(shape[0]) if key.endswith(".weight") else 0.3
    return {
        key: (scale(key, shape) * random.standard_normal(shape)).astype(np.float32) for key, shape in WEIGHTS.items()
    }


def draw_feeds(name):
    random = random_of(name)
    tokens = lambda: random.integers(0, 6, (BATCH, 3)).astype(np.int32)
    clip = lambda deviation=0.5: (deviation * random.standard_normal(CLIP)).astype(np.float32)
    return {
        "x0": clip(),
        # Unlike the chosen clips, or the mean margin would be a small difference of large numbers.
        "rejected": clip(1.5),
        "noise": random.standard_normal(CLIP).astype(np.float32),
        "time": random.uniform(0.1, 0.9, BATCH).astype(np.float32),
        "tokens": tokens(),
        "mismatchedTokens": tokens(),
        "weights": random.uniform(0.2, 2, BATCH).astype(np.float32),
        "accepted": np.array([1, 0, 1, 0], np.float32),
    }


def precise(arrays, differentiate=False):
    return {
        key: torch.tensor(array, dtype=torch.float64 if array.dtype.kind == "f" else torch.int64)
        .requires_grad_(differentiate)
        for key, array in arrays.items()
    }


def add_model_cases(writer):
    policy = draw_weights("policy")
    nudge = draw_weights("nudge")
    reference = {key: (array + 0.1 * nudge[key]).astype(np.float32) for key, array in policy.items()}
    feeds = [draw_feeds(f"feeds {place}") for place in range(FEEDS)]
    writer.share("models", "policy", policy, config=CONFIG)
    writer.share("models", "reference", reference)
    for place, feed in enumerate(feeds):
        keep = feed if place == 0 else {key: feed[key] for key in ("x0", "noise", "time", "tokens", "weights")}
        writer.share("models", f"feeds.{place}", keep)
    add_path_cases(writer)
    add_prediction_case(writer, policy, feeds[0])
    add_objective_cases(writer, policy, reference, feeds[0])
    add_adapter_cases(writer, policy, reference, feeds[0])
    add_training_case(writer, policy, feeds)


def add_path_cases(writer):
    times = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    for parameterisation in ("flow", "v", "epsilon"):
        signal, noise = levels(parameterisation, times)
        skip, scale_in, scale_out = factors(parameterisation, times, CONFIG["sigmaData"])
        writer.add(
            "paths",
            parameterisation,
            {"time": times, "signal": signal, "noise": noise, "skip": skip, "in": scale_in, "out": scale_out},
            sigmaData=CONFIG["sigmaData"],
        )


def add_prediction_case(writer, policy, feed):
    weights, inputs = precise(policy, True), precise(feed)
    shape = Shape(CONFIG)
    noised, _ = noised_and_target("flow", inputs["x0"], inputs["noise"], *levels("flow", inputs["time"]))
    prediction = denoise(shape, weights, noised, inputs["time"], inputs["tokens"])
    projection = random_of("prediction").standard_normal(CLIP).astype(np.float32)
    loss = (prediction * torch.tensor(projection, dtype=torch.float64)).sum()
    found = torch.autograd.grad(loss, list(weights.values()))
    writer.add(
        "models",
        "prediction",
        {
            "prediction": prediction,
            "projection": projection,
            **{f"gradient.{key}": gradient for key, gradient in zip(weights, found)},
        },
        check="prediction",
    )


def add_objective_cases(writer, policy, reference, feed):
    """Whole objectives from clips to gradients: noising, both models, loss."""
    cases = {
        "rwr, klAnchor, v": ("v", {"algorithm": "rwr", "klAnchor": 0.3}),
        "dpo, flow": ("flow", {"algorithm": "dpo", "beta": 50}),
        "kto, mismatched, epsilon": ("epsilon", {"algorithm": "kto", "beta": 50, "klEstimate": "mismatched"}),
    }
    for name, (parameterisation, settings) in cases.items():
        shape = Shape({**CONFIG, "parameterisation": parameterisation})
        weights, frozen, inputs = precise(policy, True), precise(reference), precise(feed)
        time = inputs["time"]

        def predictions(clip, tokens):
            noised, target = noised_and_target(parameterisation, clip, inputs["noise"], *levels(parameterisation, time))
            return target, denoise(shape, weights, noised, time, tokens), denoise(shape, frozen, noised, time, tokens)

        own = predictions(inputs["x0"], inputs["tokens"])
        if settings["algorithm"] == "rwr":
            loss, metrics = forward_projection(*own, inputs["weights"], settings["klAnchor"])
        elif settings["algorithm"] == "dpo":
            other = predictions(inputs["rejected"], inputs["tokens"])
            loss, metrics = dpo(own, other, inputs["weights"], settings["beta"])
        else:
            other = predictions(inputs["x0"], inputs["mismatchedTokens"])
            loss, metrics = kto(own, other, inputs["accepted"], inputs["weights"], settings["beta"])
        found = torch.autograd.grad(loss, list(weights.values()))
        writer.add(
            "models",
            name,
            {
                "loss": loss,
                **{f"metric.{key}": metric for key, metric in metrics.items()},
                **{f"gradient.{key}": gradient for key, gradient in zip(weights, found)},
            },
            check="objective",
            parameterisation=parameterisation,
            settings=settings,
            metrics=list(metrics),
        )


def draw_adapters(name, rank, targets):
    """A and B of every adapted matrix; B is not 0 as it is at the start, or the gradient of A would be."""
    random = random_of(name)
    draw = lambda *shape: (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
    adapters = {}
    for key in targets:
        inputs, outputs = WEIGHTS[key]
        adapters[f"{key}.lora_a"] = draw(inputs, rank)
        adapters[f"{key}.lora_b"] = draw(rank, outputs)
    return adapters


def add_adapter_cases(writer, policy, other, feed):
    """Objectives on W + (alpha / rank) A B with W frozen: gradients of A and B; the reference is W itself, or another model."""
    cases = {
        "adapters, rwr, klAnchor": ({"algorithm": "rwr", "klAnchor": 0.3}, 2, 2.0, True),
        "adapters, dpo, alpha 6": ({"algorithm": "dpo", "beta": 50, "sftAnchor": 3.0}, 3, 6.0, True),
        "adapters, dpo, another reference": ({"algorithm": "dpo", "beta": 50}, 2, 2.0, False),
    }
    targets = [
        key
        for key in WEIGHTS
        if key.startswith("blocks.") and key.endswith(".weight") and (".attention." in key or ".mlp." in key)
    ]
    shape = Shape(CONFIG)
    for name, (settings, rank, alpha, own_reference) in cases.items():
        adapters = draw_adapters(name, rank, targets)
        live, inputs = precise(adapters, True), precise(feed)
        base = precise(policy)
        frozen = base if own_reference else precise(other)
        weights = {
            key: tensor + alpha / rank * live[f"{key}.lora_a"] @ live[f"{key}.lora_b"] if key in targets else tensor
            for key, tensor in base.items()
        }

        def predictions(clip):
            noised, target = noised_and_target("flow", clip, inputs["noise"], *levels("flow", inputs["time"]))
            policy_and_reference = (
                denoise(shape, model, noised, inputs["time"], inputs["tokens"]) for model in (weights, frozen)
            )
            return target, *policy_and_reference

        if settings["algorithm"] == "rwr":
            loss, metrics = forward_projection(*predictions(inputs["x0"]), inputs["weights"], settings["klAnchor"])
        else:
            loss, metrics = dpo(
                predictions(inputs["x0"]),
                predictions(inputs["rejected"]),
                inputs["weights"],
                settings["beta"],
                settings.get("sftAnchor", 0.0),
            )
        found = torch.autograd.grad(loss, list(live.values()))
        writer.add(
            "models",
            name,
            {
                **{f"adapter.{key}": array for key, array in adapters.items()},
                "loss": loss,
                **{f"metric.{key}": metric for key, metric in metrics.items()},
                **{f"gradient.{key}": gradient for key, gradient in zip(live, found)},
            },
            check="adapters",
            settings=settings,
            adapters={"rank": rank, "alpha": alpha, "targets": targets},
            referenceIsBase=own_reference,
            metrics=list(metrics),
        )


def add_training_case(writer, policy, feeds):
    """Ten steps of torch.optim.AdamW with clipping by global norm and a moving average."""
    shape = Shape(CONFIG)
    weights = precise(policy, True)
    average = {key: tensor.detach().clone() for key, tensor in weights.items()}
    multiplier = lambda key: 15 if key.endswith(".relative") else 1
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [tensor],
                "multiplier": multiplier(key),
                "weight_decay": OPTIMISER["weightDecay"] if key.endswith(".weight") else 0,
            }
            for key, tensor in weights.items()
        ],
        betas=(OPTIMISER["beta1"], OPTIMISER["beta2"]),
        eps=OPTIMISER["epsilon"],
        foreach=False,
    )
    losses, norms = [], []
    for step, (rate, decay) in enumerate(zip(RATES, DECAYS)):
        inputs = precise(feeds[step % FEEDS])
        noised, target = noised_and_target("flow", inputs["x0"], inputs["noise"], *levels("flow", inputs["time"]))
        prediction = denoise(shape, weights, noised, inputs["time"], inputs["tokens"])
        loss, _ = forward_projection(target, prediction, None, inputs["weights"], 0)
        optimiser.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights.values(), OPTIMISER["clipNorm"]))
        for group in optimiser.param_groups:
            group["lr"] = rate * group["multiplier"]
        optimiser.step()
        with torch.no_grad():
            for key, tensor in weights.items():
                average[key].lerp_(tensor, 1 - decay)
        losses.append(loss.detach())
    if not min(norms) < OPTIMISER["clipNorm"] < max(norms):
        raise ValueError(f"clipping must act in some steps and not in others; norms are {[n.item() for n in norms]}")
    moments = {key: optimiser.state[tensor] for key, tensor in weights.items()}
    writer.add(
        "models",
        "ten steps",
        {
            "loss": torch.stack(losses),
            "gradientNorm": torch.stack(norms),
            **{f"parameter.{key}": tensor for key, tensor in weights.items()},
            # Weights hardly move in ten steps: their change is what shows a wrong step.
            **{f"change.{key}": tensor - torch.tensor(policy[key]).double() for key, tensor in weights.items()},
            **{f"firstMoment.{key}": state["exp_avg"] for key, state in moments.items()},
            **{f"secondMoment.{key}": state["exp_avg_sq"] for key, state in moments.items()},
            **{f"ema.{key}": tensor for key, tensor in average.items()},
        },
        check="training",
        settings={"algorithm": "sft"},
        optimiser=OPTIMISER,
        learningRates=RATES,
        emaDecays=DECAYS,
        feeds=FEEDS,
    )
