"""Makes packages/rewards/fixtures/clip: a CLIP with a small random configuration from Hugging Face transformers, exported to
ONNX, with its own BPE tokeniser, and what the reference makes of frames and prompts. Nothing is downloaded.

    python parity/clip_fixture.py
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Regex
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

REWARDS = Path(__file__).parent.parent / "packages" / "rewards"
sys.path.insert(0, str(REWARDS / "export"))
from export_clip import TEXT_AXES, VISION_AXES, TransformersText, TransformersVision, export, export_transformers  # noqa: E402

FOLDER = REWARDS / "fixtures" / "clip"
MAX_LENGTH = 24
SIZE = 30

PROMPTS = [
    "a red ball falls to the ground",
    "  Pushing   the GREEN triangle,\tto the left!!  ",
    "tearing receipt into two pieces; it's 3 o'clock, we'll see what they've done",
    "A café naïve façade — “quoted” … 你好世界 привет мир 🤖🎈",
    "e\u0301 and é are one letter after normalisation; \ufb01 stays",
    "x",
    "1234567890 0.5 #hashtag @name a_b-c/d\\e <tag> &amp;",
    "long " * 40 + "end of a prompt that does not fit",
    "\U0001f1e9\U0001f1ea flags\u200bzero\u00a0width\u3000space İstanbul ß ǅ",
]


def bpe() -> Tokenizer:
    """The pipeline of CLIP's tokenizer.json, with merges learned on the prompts and a little more."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix="", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    texts = PROMPTS + ["the ball lands on the block and the block falls off the table", "squeezing stretching taking pushing"]
    tokenizer.train_from_iterator(texts, trainer)
    # As CLIP's own, the table holds every byte at the end of a word too, so that nothing is unknown.
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for byte in sorted(alphabet):
        for token in (byte, byte + "</w>"):
            vocab.setdefault(token, len(vocab))
    start, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("<|endoftext|>", end), cls_token=("<|startoftext|>", start), add_prefix_space=False, trim_offsets=False
    )
    return tokenizer


def frames() -> list[Image.Image]:
    """Frames of odd sizes: smaller and larger than the model's, wide, high, one of a single pixel, with hard edges and noise."""
    random = np.random.default_rng(5)
    found = []
    for width, height in [(24, 24), (64, 48), (37, 91), (101, 33), (30, 30), (1, 1), (31, 33), (160, 120)]:
        ys, xs = np.mgrid[0:height, 0:width]
        picture = np.stack([(xs * 7) % 256, (ys * 5 + xs) % 256, ((xs // 5 + ys // 7) % 2) * 255], axis=2)
        noise = random.integers(-20, 21, picture.shape)
        found.append(Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)))
    return found


class Both(torch.nn.Module):
    def __init__(self, model: CLIPModel):
        super().__init__()
        self.vision, self.text = TransformersVision(model), TransformersText(model)

    def forward(self, pixel_values, input_ids, attention_mask):
        return self.vision(pixel_values), self.text(input_ids, attention_mask)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    raw = bpe()
    raw.save(str(FOLDER / "tokenizer.json"), pretty=False)
    with tempfile.TemporaryDirectory() as folder:
        raw.save(f"{folder}/tokenizer.json")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=f"{folder}/tokenizer.json",
            bos_token="<|startoftext|>",
            eos_token="<|endoftext|>",
            unk_token="<|endoftext|>",
            pad_token="<|endoftext|>",
        )
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor.save_pretrained(FOLDER)
    ids = raw.get_vocab()
    shared = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=CLIPTextConfig(
            **shared,
            vocab_size=len(ids),
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=ids["<|startoftext|>"],
            eos_token_id=ids["<|endoftext|>"],
            pad_token_id=ids["<|endoftext|>"],
            projection_dim=16,
        ).to_dict(),
        vision_config=CLIPVisionConfig(**shared, image_size=SIZE, patch_size=10, projection_dim=16).to_dict(),
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        # The usual start gives nearly equal embeddings for everything; these are far apart.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
        model.logit_scale.fill_(float(np.log(100.0)))

    pictures = frames()
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    tokens = [tokenizer(prompt, truncation=True, max_length=MAX_LENGTH)["input_ids"] for prompt in PROMPTS]
    batch = tokenizer(PROMPTS, truncation=True, max_length=MAX_LENGTH, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=pixels, **{k: batch[k] for k in ("input_ids", "attention_mask")})
    # logits_per_image is logit_scale.exp() times the cosine: one row a frame, one column a prompt.
    scores = outputs.logits_per_image.double().numpy()

    export_transformers(model, FOLDER)
    export(
        Both(model),
        (pixels[:2], batch["input_ids"][:1], batch["attention_mask"][:1]),
        FOLDER / "both.onnx",
        ["pixel_values", "input_ids", "attention_mask"],
        ["image_embeds", "text_embeds"],
        {**VISION_AXES, **TEXT_AXES, "image_embeds": {0: "images"}},
    )

    pixel_bytes = np.ascontiguousarray(pixels.numpy(), dtype=np.float32)
    (FOLDER / "pixels.f32").write_bytes(pixel_bytes.tobytes())
    (FOLDER / "frames.rgb").write_bytes(b"".join(np.asarray(picture).tobytes() for picture in pictures))
    # Pillow's own resizing, of each filter, as hashes: ours has to give the same bytes.
    resized = []
    for index, picture in enumerate(pictures):
        for name, how in [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR), ("lanczos", Image.LANCZOS), ("nearest", Image.NEAREST)]:
            for width, height in [(30, 30), (17, 45), (64, 20)]:
                data = np.asarray(picture.resize((width, height), how)).tobytes()
                resized.append({"frame": index, "filter": name, "width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest()})
    import transformers

    (FOLDER / "expected.json").write_text(
        json.dumps(
            {
                "madeWith": {"transformers": transformers.__version__, "torch": torch.__version__, "pillow": Image.__version__},
                "maxLength": MAX_LENGTH,
                "size": SIZE,
                "logitScale": 100,
                "frames": [{"width": picture.width, "height": picture.height} for picture in pictures],
                "prompts": PROMPTS,
                "tokens": tokens,
                "scores": [[round(float(score), 7) for score in row] for row in scores],
                "resized": resized,
            },
            ensure_ascii=True,
        )
        + "\n"
    )


main()
