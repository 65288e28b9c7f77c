"""
Small random Wan, LTX-Video and CogVideoX transformers of diffusers as ONNX, each exported in another way, and what PyTorch
and PEFT make of them: predictions, and losses, gradients and ten training steps of LoRA adapters.

Needs requirements.txt.
"""

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from diffusers import (
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from plumb_torch.losses import dpo, forward_projection

from case_writer import random_of

RANK = 2
ALPHA = 4
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
MICRO = 2
BATCH = 4
STEPS = 10
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.01
CLIP_NORM = 0.5
RWR = {"algorithm": "rwr", "klAnchor": 0.3}
DPO = {"algorithm": "dpo", "beta": 20}


class Exported(torch.nn.Module):
    """A transformer with its inputs by position and its prediction as a plain tensor."""

    def __init__(self, model, **fixed):
        super().__init__()
        self.model = model
        self.fixed = fixed

    def forward(self, hidden_states, encoder_hidden_states, timestep):
        return self.model(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            return_dict=False,
            **self.fixed,
        )[0]


def wan():
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=8,
    )
    return model, {}, (4, 2, 4, 4)


def ltx():
    model = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=8,
    )
    grid = {"num_frames": 2, "height": 3, "width": 3, "rope_interpolation_scale": (0.5, 32.0, 32.0)}
    return model, {**grid, "encoder_attention_mask": None}, (18, 4)


def cogvideox():
    model = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=3,
        use_rotary_positional_embeddings=True,
    )
    random = random_of("cogvideox/rotary")
    angles = torch.tensor(random.uniform(-3, 3, (2 * 2 * 2, 12)), dtype=torch.float32)
    return model, {"image_rotary_emb": (angles.cos(), angles.sin())}, (2, 4, 4, 4)


def export(model, inputs, path, how):
    """Writes the model; `how` is one of PyTorch's exporters and what it is told of the batch."""
    names = list(inputs)
    arguments = tuple(inputs.values())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if how == "older exporter, free batch":
            torch.onnx.export(
                model,
                arguments,
                path,
                dynamo=False,
                opset_version=17,
                input_names=names,
                output_names=["sample"],
                dynamic_axes={name: {0: "batch"} for name in names},
            )
        else:
            free = "free batch" in how
            batch = torch.export.Dim("batch", min=1, max=64)
            torch.onnx.export(
                model,
                arguments,
                path,
                dynamo=True,
                opset_version=20,
                input_names=names,
                output_names=["sample"],
                dynamic_shapes=tuple({0: batch} for _ in names) if free else None,
                external_data="external" in how,
                verbose=False,
            )
    written = onnx.load(path, load_external_data=False)
    # Traces of this machine's Python, several times the size of the model.
    for node in written.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
    del written.metadata_props[:]
    del written.graph.metadata_props[:]
    del written.graph.value_info[:]
    onnx.save(written, path)


def randomise(model, name):
    """Weights that let every part of the model speak, from a generator of their own."""
    random = random_of(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            inputs = int(np.prod(shape[1:])) if len(shape) > 1 else 1
            values = random.normal(0, 1 / np.sqrt(inputs) if len(shape) > 1 else 0.1, shape)
            offset = 1 if len(shape) == 1 and key.endswith("weight") else 0
            parameter.copy_(torch.tensor(values + offset, dtype=torch.float32))


def feeds_of(name, latent, parameterisation, rejected):
    random = random_of(f"{name}/feeds")

    def normal(*shape):
        return torch.tensor(random.normal(size=shape), dtype=torch.float32)

    time = torch.tensor(random.uniform(0.1, 0.9, BATCH), dtype=torch.float32)
    level = time.reshape(-1, *[1] * len(latent))
    if parameterisation == "flow":
        signal, noise_level = 1 - level, level
    else:
        signal, noise_level = torch.cos(np.pi / 2 * level), torch.sin(np.pi / 2 * level)
    feeds = {
        "x0": normal(BATCH, *latent),
        "noise": normal(BATCH, *latent),
        "signal": signal,
        "noiseLevel": noise_level,
        "timestep": (time * 1000).round().to(torch.int64),
        "text": normal(BATCH, 3, 8),
        "weights": torch.tensor(random.uniform(0.2, 2, BATCH), dtype=torch.float32),
    }
    if rejected:
        feeds["rejected"] = normal(BATCH, *latent)
    return feeds


def prediction(model, fixed, noised, feeds):
    return model(
        hidden_states=noised,
        encoder_hidden_states=feeds["text"],
        timestep=feeds["timestep"],
        return_dict=False,
        **fixed,
    )[0]


def without_adapters(model, compute):
    model.disable_adapters()
    try:
        with torch.no_grad():
            return compute()
    finally:
        model.enable_adapters()


def objective(settings, parameterisation, model, fixed, feeds):
    """The loss and its metrics on a batch; the reference is the model without adapters."""

    def of(clip):
        signal, level, noise = feeds["signal"], feeds["noiseLevel"], feeds["noise"]
        noised = signal * clip + level * noise
        target = noise - clip if parameterisation == "flow" else signal * noise - level * clip
        policy = prediction(model, fixed, noised, feeds)
        reference = without_adapters(model, lambda: prediction(model, fixed, noised, feeds))
        return target, policy, reference

    if settings["algorithm"] == "rwr":
        return forward_projection(*of(feeds["x0"]), feeds["weights"], settings["klAnchor"])
    return dpo(of(feeds["x0"]), of(feeds["rejected"]), feeds["weights"], settings["beta"])


def adapters_of(model):
    """Trained parameters by the names that PEFT files give them."""
    return {
        key.replace(".default.weight", ".weight"): parameter
        for key, parameter in model.named_parameters()
        if "lora_" in key
    }


def add_adapters(model, name):
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, lora_dropout=0.0))
    random = random_of(f"{name}/adapters")
    with torch.no_grad():
        for parameter in adapters_of(model).values():
            parameter.copy_(torch.tensor(random.normal(0, 0.3, tuple(parameter.shape)), dtype=torch.float32))


def train(settings, parameterisation, model, fixed, feeds):
    """Ten steps of AdamW from the adapters as they are, which are put back afterwards."""
    parameters = adapters_of(model)
    start = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    adamw = torch.optim.AdamW(
        parameters.values(), lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-8, weight_decay=WEIGHT_DECAY
    )
    losses, norms = [], []
    for _ in range(STEPS):
        adamw.zero_grad()
        loss, _ = objective(settings, parameterisation, model, fixed, feeds)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP_NORM).item())
        losses.append(loss.item())
        adamw.step()
    trained = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(start[key])
    return losses, norms, start, trained


def write_peft_file(pipeline, model, path):
    """The adapters as the pipeline saves them."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(model),
            **_collate_lora_metadata({"transformer": model}),
        )
        (saved,) = Path(folder).glob("*.safetensors")
        shutil.copy(saved, path)


MAKERS = {
    "wan": (WanPipeline, wan, "free batch, external data", "flow", []),
    "ltx-video": (LTXPipeline, ltx, "fixed shapes", "flow", ["transformer_blocks.*"]),
    "cogvideox": (CogVideoXPipeline, cogvideox, "older exporter, free batch", "v", ["transformer_blocks.*"]),
}


def quietly():
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def check_adapter_file(name, path):
    """
    Loads adapters into a fresh model as the pipeline does.

    Returns the prediction on the feeds of the case.
    """
    quietly()
    pipeline, make, _, parameterisation, _ = MAKERS[name]
    model, fixed, latent = make()
    model.eval()
    randomise(model, name)
    state, metadata = pipeline.lora_state_dict(path, return_lora_metadata=True)
    pipeline.load_lora_into_transformer(state, transformer=model, metadata=metadata)
    feeds = feeds_of(name, latent, parameterisation, rejected=True)
    with torch.no_grad():
        return prediction(model, fixed, feeds["x0"], feeds)


def add_denoiser_cases(writer, folder):
    quietly()
    folder = Path(folder) / "denoisers"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pipeline, make, how, parameterisation, blocks) in MAKERS.items():
        model, fixed, latent = make()
        model.eval()
        randomise(model, name)
        feeds = feeds_of(name, latent, parameterisation, rejected=True)
        inputs = {
            "hidden_states": feeds["x0"][:MICRO],
            "encoder_hidden_states": feeds["text"][:MICRO],
            "timestep": feeds["timestep"][:MICRO],
        }
        file = f"{name}.onnx"
        export(Exported(model, **fixed), inputs, str(folder / file), how)
        with torch.no_grad():
            base = prediction(model, fixed, feeds["x0"], feeds)
        add_adapters(model, name)
        write_peft_file(pipeline, model, folder / f"{name}.lora.safetensors")
        tensors = {f"feed.{key}": value for key, value in feeds.items()}
        tensors["prediction.base"] = base
        with torch.no_grad():
            tensors["prediction.adapted"] = prediction(model, fixed, feeds["x0"], feeds)
        parameters = adapters_of(model)
        for key, parameter in parameters.items():
            tensors[f"adapter.{key}"] = parameter
        checks = []
        for settings in (RWR, DPO):
            algorithm = settings["algorithm"]
            model.zero_grad()
            loss, metrics = objective(settings, parameterisation, model, fixed, feeds)
            loss.backward()
            tensors[f"{algorithm}.loss"] = loss
            for key, value in metrics.items():
                tensors[f"{algorithm}.metric.{key}"] = value
            for key, parameter in parameters.items():
                tensors[f"{algorithm}.gradient.{key}"] = parameter.grad.clone()
            losses, norms, start, trained = train(settings, parameterisation, model, fixed, feeds)
            tensors[f"{algorithm}.losses"] = torch.tensor(losses)
            tensors[f"{algorithm}.gradientNorms"] = torch.tensor(norms)
            for key in parameters:
                tensors[f"{algorithm}.trained.{key}"] = trained[key]
                tensors[f"{algorithm}.change.{key}"] = trained[key] - start[key]
            checks.append({"settings": settings, "metrics": list(metrics)})
        writer.add(
            "denoisers",
            name,
            tensors,
            how=how,
            file=file,
            adaptersFile=f"{name}.lora.safetensors",
            parameterisation=parameterisation,
            microBatch=MICRO,
            blocks=blocks,
            adapters={"rank": RANK, "alpha": ALPHA, "targets": [f"*.{target}" for target in TARGETS]},
            optimiser={
                "beta1": 0.9,
                "beta2": 0.98,
                "epsilon": 1e-8,
                "weightDecay": WEIGHT_DECAY,
                "clipNorm": CLIP_NORM,
            },
            learningRate=LEARNING_RATE,
            checks=checks,
        )
