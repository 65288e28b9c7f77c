"""Exports a CLIP as Plumb's rewards want it: vision.onnx, text.onnx, tokenizer.json and preprocessor_config.json in a folder.

A model of Hugging Face transformers (a folder or a name), such as CLIP or PickScore:

    python export_clip.py --transformers openai/clip-vit-base-patch32 --output models/clip-vit-b-32
    python export_clip.py --transformers yuvalkirstain/PickScore_v1 \
        --processor laion/CLIP-ViT-H-14-laion2B-s32B-b79K --output models/pickscore

A checkpoint of open_clip, such as HPSv2:

    python export_clip.py --open-clip ViT-H-14 --checkpoint HPS_v2.1_compressed.pt \
        --processor laion/CLIP-ViT-H-14-laion2B-s32B-b79K --output models/hpsv2

Needs torch, transformers and onnx, and open_clip_torch for the last.
"""

import argparse
import hashlib
import math
import shutil
from pathlib import Path

import torch

OPSET = 18


class TransformersVision(torch.nn.Module):
    """pixel_values [n, 3, height, width] to image_embeds [n, width]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        pooled = self.model.vision_model(pixel_values=pixel_values).pooler_output
        return self.model.visual_projection(pooled)


class TransformersText(torch.nn.Module):
    """input_ids and attention_mask [n, length] to text_embeds [n, width]."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        pooled = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return self.model.text_projection(pooled)


class OpenClipVision(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model.encode_image(pixel_values)


class OpenClipText(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model.encode_text(input_ids)


def export(module, inputs: tuple, path: Path, names: list[str], outputs: list[str], axes: dict) -> None:
    """One ONNX file. `axes` names the free axes of inputs and outputs."""
    torch.onnx.export(
        module.eval(),
        inputs,
        str(path),
        input_names=names,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )


TEXT_AXES = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}, "text_embeds": {0: "batch"}}
VISION_AXES = {"pixel_values": {0: "batch"}, "image_embeds": {0: "batch"}}


def export_transformers(model, folder: Path) -> float:
    """Both towers of a CLIPModel; returns its logit scale."""
    size = model.config.vision_config.image_size
    pixels = torch.randn(2, 3, size, size)
    ids = torch.tensor([[model.config.text_config.bos_token_id, 5, 6, model.config.text_config.eos_token_id]])
    export(TransformersVision(model), (pixels,), folder / "vision.onnx", ["pixel_values"], ["image_embeds"], VISION_AXES)
    export(
        TransformersText(model),
        (ids, torch.ones_like(ids)),
        folder / "text.onnx",
        ["input_ids", "attention_mask"],
        ["text_embeds"],
        TEXT_AXES,
    )
    return math.exp(model.logit_scale.item())


def export_open_clip(model, folder: Path) -> float:
    """Both towers of an open_clip model. Its text tower takes prompts of its context length only."""
    # The fast path of attention is one fused operator, which ONNX does not have.
    torch.backends.mha.set_fastpath_enabled(False)
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    ids = torch.zeros(1, model.context_length, dtype=torch.int64)
    ids[0, :3] = torch.tensor([49406, 5, 49407])
    export(OpenClipVision(model), (torch.randn(2, 3, height, width),), folder / "vision.onnx", ["pixel_values"], ["image_embeds"], VISION_AXES)
    export(OpenClipText(model), (ids,), folder / "text.onnx", ["input_ids"], ["text_embeds"], {})
    return math.exp(model.logit_scale.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--transformers", help="folder or name of a CLIPModel")
    source.add_argument("--open-clip", help="architecture, for example ViT-H-14")
    parser.add_argument("--checkpoint", help="weights of --open-clip")
    parser.add_argument("--processor", help="where tokenizer.json and preprocessor_config.json come from; the model unless given")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    processor = options.processor or options.transformers
    if processor is None:
        parser.error("--processor is missing; name a model with the tokenizer of this one")
    with torch.no_grad():
        if options.transformers is not None:
            from transformers import CLIPModel

            scale = export_transformers(CLIPModel.from_pretrained(options.transformers, attn_implementation="eager"), options.output)
        else:
            import open_clip

            model = open_clip.create_model(options.open_clip)
            state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
            model.load_state_dict(state.get("state_dict", state))
            scale = export_open_clip(model, options.output)

    for name in ["tokenizer.json", "preprocessor_config.json"]:
        local = Path(processor) / name
        if not local.exists():
            from huggingface_hub import hf_hub_download

            local = hf_hub_download(processor, name)
        shutil.copyfile(local, options.output / name)
    print(f"logit scale: {scale:.6g}")
    for path in sorted(options.output.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")


if __name__ == "__main__":
    main()
