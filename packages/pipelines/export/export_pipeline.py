"""Exports a diffusers text-to-video pipeline to the folder that Plumb reads.

    python export_pipeline.py <folder or model id> <output> --width 832 --height 480 --frames 81 --fps 16

The output has the diffusers layout: model_index.json, scheduler/, tokenizer/tokenizer.json, and for each of text_encoder,
transformer and vae its config.json and model.onnx (weights in model.onnx.data). plumb.json says size, rate and defaults;
SHA256SUMS has the hash of every file. The graphs are for one resolution and number of frames; the batch is free.
Needs torch, diffusers, transformers, onnx (see docs/models.md).
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import onnx
import torch

OPSET = 18


class TextEncoder(torch.nn.Module):
    """input_ids, attention_mask int64 [batch, tokens] -> last_hidden_state [batch, tokens, width]."""

    def __init__(self, encoder, masked):
        super().__init__()
        self.encoder = encoder
        self.masked = masked

    def forward(self, input_ids, attention_mask=None):
        if self.masked:
            return self.encoder(input_ids, attention_mask).last_hidden_state
        return self.encoder(input_ids)[0]


class WanDenoiser(torch.nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        return self.transformer(
            hidden_states=hidden_states,
            timestep=timestep,
            encoder_hidden_states=encoder_hidden_states,
            return_dict=False,
        )[0]


class LtxDenoiser(torch.nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, video_coords):
        return self.transformer(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            encoder_attention_mask=encoder_attention_mask,
            video_coords=video_coords,
            return_dict=False,
        )[0]


class CogVideoXDenoiser(torch.nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, hidden_states, timestep, encoder_hidden_states, image_rotary_cos=None, image_rotary_sin=None):
        rotary = None if image_rotary_cos is None else (image_rotary_cos, image_rotary_sin)
        return self.transformer(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]


class Decoder(torch.nn.Module):
    """latents [batch, channels, frames, height, width], as the VAE takes them -> sample in -1 to 1."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latents):
        return self.vae.decode(latents, return_dict=False)[0]


def check_graph(module, inputs, path):
    """What the graph computes against what torch does: exporters have been wrong before."""
    import onnxruntime

    inputs = {name: value.clone() for name, value in inputs.items()}
    for name, value in inputs.items():
        if name.endswith("attention_mask"):
            value[:, value.shape[1] // 2 :] = 0
    with torch.no_grad():
        wanted = module(*inputs.values()).float()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]).float()
    if "input_ids" in inputs and "attention_mask" in inputs:
        # Nobody reads the embeddings of padding.
        wanted, found = (value * inputs["attention_mask"][..., None] for value in (wanted, found))
    error = ((found - wanted).norm() / wanted.norm()).item()
    limit = 1e-3 if wanted.dtype == next(iter(inputs.values())).dtype else 2e-2
    if not error < limit:
        raise SystemExit(f"{path} computes something else than torch: relative error {error:.2g}")


def write_onnx(module, inputs, output, folder, precision, check=True):
    """One graph, its weights beside it. `inputs` is a dict of example tensors, batch first where batched."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(inputs)
    unbatched = {"image_rotary_cos", "image_rotary_sin"}
    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.no_grad():
        exported = torch.export.export(
            module.eval(),
            tuple(inputs.values()),
            dynamic_shapes=tuple(None if name in unbatched else {0: batch} for name in names),
            strict=False,
        )
        program = torch.onnx.export(
            exported, input_names=names, output_names=[output], opset_version=OPSET, dynamo=True
        )
    model = program.model_proto
    # Traces of the Python source are large and name paths of this machine.
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        # The names of modules are what adapters are put on by; stack traces are several times the size of a small model.
        scopes = [entry for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(scopes)
        node.ClearField("doc_string")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    name = "model.onnx" if precision == "float32" else "model_fp16.onnx"
    onnx.save_model(
        model, str(folder / name), save_as_external_data=True, location=f"{name}.data", size_threshold=1024
    )
    if check:
        check_graph(module, inputs, folder / name)


def export_pipeline(pipe, output, settings, precision="float32", check=True):
    """`settings`: name, width, height, frames, fps, maxTextTokens, and optionally steps, guidance, negativePrompt, licence."""
    output = Path(output)
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    kind = type(pipe).__name__
    dtype = torch.float32 if precision == "float32" else torch.float16
    pipe.scheduler.save_pretrained(output / "scheduler")
    pipe.tokenizer.save_pretrained(output / "tokenizer")
    for part in ["text_encoder", "transformer", "vae"]:
        component = getattr(pipe, part).to(dtype)
        (output / part).mkdir()
        config = component.config
        text = config.to_json_string() if hasattr(config, "to_json_string") else component.to_json_string()
        (output / part / "config.json").write_text(text)
    index = {key: value for key, value in pipe.config.items() if not key.startswith("_name")}
    (output / "model_index.json").write_text(json.dumps({"_class_name": kind, **index}, indent=2, default=str) + "\n")
    mean, std = getattr(pipe.vae, "latents_mean", None), getattr(pipe.vae, "latents_std", None)
    if isinstance(mean, torch.Tensor):
        # LTX-Video keeps these among the weights, where a decoder alone has no use for them.
        settings = {**settings, "latentsMean": mean.tolist(), "latentsStd": std.tolist()}
    (output / "plumb.json").write_text(json.dumps(settings, indent=2) + "\n")

    tokens, width, height, frames = (settings[key] for key in ["maxTextTokens", "width", "height", "frames"])
    batch = 3
    ids = torch.randint(pipe.text_encoder.config.vocab_size, (batch, tokens))
    mask = torch.ones(batch, tokens, dtype=torch.int64)
    text_width = pipe.text_encoder.config.d_model
    masked = kind == "WanPipeline"
    text = {"input_ids": ids, **({"attention_mask": mask} if masked else {})}
    write_onnx(TextEncoder(pipe.text_encoder, masked), text, "last_hidden_state", output / "text_encoder", precision, check)

    config = pipe.transformer.config
    channels = config.in_channels
    embeddings = torch.randn(batch, tokens, text_width, dtype=dtype)
    if kind == "WanPipeline":
        spatial, temporal = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    elif kind == "LTXPipeline":
        spatial, temporal = pipe.vae_spatial_compression_ratio, pipe.vae_temporal_compression_ratio
    elif kind == "CogVideoXPipeline":
        spatial, temporal = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    else:
        raise SystemExit(f"{kind} is not exported; WanPipeline, LTXPipeline and CogVideoXPipeline are")
    latent_frames, rows, columns = (frames - 1) // temporal + 1, height // spatial, width // spatial
    latents = torch.randn(batch, channels, latent_frames, rows, columns, dtype=dtype)
    times = torch.full((batch,), 500, dtype=torch.int64)
    if kind == "WanPipeline":
        module = WanDenoiser(pipe.transformer)
        inputs = {"hidden_states": latents, "timestep": times, "encoder_hidden_states": embeddings}
    elif kind == "LTXPipeline":
        module = LtxDenoiser(pipe.transformer)
        sequence = latent_frames * rows * columns // (config.patch_size**2 * config.patch_size_t)
        inputs = {
            "hidden_states": torch.randn(batch, sequence, channels, dtype=dtype),
            "timestep": times.to(dtype),
            "encoder_hidden_states": embeddings,
            "encoder_attention_mask": mask,
            "video_coords": torch.rand(batch, 3, sequence),
        }
    else:
        module = CogVideoXDenoiser(pipe.transformer)
        step = config.patch_size_t or 1
        padded = -(-latent_frames // step) * step
        inputs = {
            "hidden_states": torch.randn(batch, padded, channels, rows, columns, dtype=dtype),
            "timestep": times,
            "encoder_hidden_states": embeddings,
        }
        if config.use_rotary_positional_embeddings:
            sequence = padded // step * (rows // config.patch_size) * (columns // config.patch_size)
            for name in ["image_rotary_cos", "image_rotary_sin"]:
                inputs[name] = torch.rand(sequence, config.attention_head_dim)
    write_onnx(module, inputs, "noise_prediction", output / "transformer", precision, check)
    write_onnx(Decoder(pipe.vae), {"latents": latents}, "sample", output / "vae", precision, check)
    write_sums(output)


def write_sums(folder):
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "SHA256SUMS":
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            lines.append(f"{digest.hexdigest()}  {path.relative_to(folder)}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hugging Face id of a diffusers pipeline")
    parser.add_argument("output")
    parser.add_argument("--name", help="name of the line of models; default: the folder's")
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--fps", type=float, required=True)
    parser.add_argument("--tokens", type=int, default=226, help="text tokens; 512 for Wan, 128 for LTX-Video")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--licence", default="")
    parser.add_argument("--precision", choices=["float32", "float16"], default="float32")
    parser.add_argument("--no-check", action="store_true", help="do not compare the graphs with torch afterwards")
    options = parser.parse_args()
    from diffusers import DiffusionPipeline

    export_pipeline(
        DiffusionPipeline.from_pretrained(options.model),
        options.output,
        {
            "name": options.name or Path(options.output).name,
            "width": options.width,
            "height": options.height,
            "frames": options.frames,
            "fps": options.fps,
            "maxTextTokens": options.tokens,
            "steps": options.steps,
            "guidance": options.guidance,
            "negativePrompt": options.negative_prompt,
            "licence": options.licence,
        },
        options.precision,
        not options.no_check,
    )
