"""Makes the small pipelines of the tests, and what diffusers samples with them.

    python make_cases.py            # remakes packages/pipelines/fixtures

Random weights of the real architectures at their smallest; the noise, the final latents and the frames are stored as
safetensors, the schedulers' steps as JSON.
"""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from export_pipeline import export_pipeline
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
WORDS = "a the red blue ball block cup rolls falls pushes into off table ramp slowly quickly and".split()
TOKENS = 12


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TOKENS
    )


def text_encoder(config, model):
    torch.manual_seed(11)
    return model(config(vocab_size=32, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4, dropout_rate=0.0)).eval()


def randomised(module, seed):
    """Layers that begin at zero would hide mistakes; norms and biases are moved off their initial values too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim <= 1 or "gamma" in name:
                value.add_(0.1 * noise)
            elif value.abs().max() == 0:
                value.copy_(0.2 * noise)
    return module.eval()


def wan():
    torch.manual_seed(1)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[-0.7, 0.1, 0.4, -0.2], latents_std=[2.8, 1.4, 2.3, 1.9],
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    pipe = WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=text_encoder(UMT5Config, UMT5EncoderModel),
        vae=randomised(vae, 2),
        scheduler=scheduler,
        transformer=randomised(transformer, 3),
    )
    return pipe, {"name": "wan-tiny", "width": 32, "height": 16, "frames": 5, "fps": 16}, 4.0, {}


def ltx():
    torch.manual_seed(4)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=2,
        caption_channels=16,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size=4, scaling_factor=0.8,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.3, 0.4, 8))
    vae.latents_std.copy_(torch.linspace(0.8, 1.5, 8))
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip
    pipe = LTXPipeline(
        scheduler=scheduler,
        vae=randomised(vae, 5),
        text_encoder=text_encoder(T5Config, T5EncoderModel),
        tokenizer=tokenizer(),
        transformer=randomised(transformer, 6),
    )
    return pipe, {"name": "ltx-tiny", "width": 64, "height": 32, "frames": 9, "fps": 24}, 3.0, {"frame_rate": 24}


def cogvideox():
    torch.manual_seed(7)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
        num_layers=2, sample_width=4, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
        max_text_seq_length=TOKENS, use_rotary_positional_embeddings=True,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4, scaling_factor=0.7,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", snr_shift_scale=1.0
    )
    pipe = CogVideoXPipeline(
        tokenizer=tokenizer(),
        text_encoder=text_encoder(T5Config, T5EncoderModel),
        vae=randomised(vae, 8),
        transformer=randomised(transformer, 9),
        scheduler=scheduler,
    )
    return pipe, {"name": "cogvideox-tiny", "width": 32, "height": 16, "frames": 9, "fps": 8}, 6.0, {}


def make_pipelines():
    for folder, build in [("wan", wan), ("ltx", ltx), ("cogvideox", cogvideox)]:
        pipe, settings, guidance, extra = build()
        pipe.set_progress_bar_config(disable=True)
        steps, prompts = 4, ["a red ball rolls off the table", "the blue block falls"]
        arguments = dict(
            height=settings["height"], width=settings["width"], num_frames=settings["frames"], num_inference_steps=steps,
            guidance_scale=guidance, max_sequence_length=TOKENS, **extra,
        )  # fmt: skip
        noises = {}

        def prepared(original, *args, **kwargs):
            noises["noise"] = original(*args, **kwargs).clone()
            return noises["noise"]

        original = type(pipe).prepare_latents
        pipe.prepare_latents = lambda *a, **k: prepared(original.__get__(pipe), *a, **k)
        outputs = {}
        for kind in ["latent", "pt"]:
            generator = torch.Generator().manual_seed(21)
            outputs[kind] = pipe(prompts, generator=generator, output_type=kind, **arguments).frames
        ids = pipe.tokenizer(prompts, padding="max_length", max_length=TOKENS).input_ids
        settings = {
            **settings, "maxTextTokens": TOKENS, "steps": steps, "guidance": guidance, "negativePrompt": "",
            "licence": "Apache-2.0",
        }  # fmt: skip
        del pipe.prepare_latents
        export_pipeline(pipe, FIXTURES / folder, settings)
        save_file(
            {
                "noise": noises["noise"].contiguous(),
                "latents": outputs["latent"].contiguous(),
                "frames": outputs["pt"].contiguous(),
            },
            str(FIXTURES / f"{folder}.safetensors"),
            metadata={"prompts": json.dumps(prompts), "ids": json.dumps(ids)},
        )


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
# name: class, configuration, steps, arguments of set_timesteps
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}, 5, {}),
    "ddim-v-zero-snr": (
        "DDIMScheduler",
        {
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False,
        },
        7, {},
    ),
    "ddim-sample-clipped": (
        "DDIMScheduler",
        {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2", "steps_offset": 1, "set_alpha_to_one": False},
        6, {},
    ),
    "ddpm": ("DDPMScheduler", {}, 6, {}),
    "ddpm-large-v": (
        "DDPMScheduler",
        {"variance_type": "fixed_large", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}, 5, {},
    ),
    "ddpm-small-log-sigmoid": (
        "DDPMScheduler",
        {"variance_type": "fixed_small_log", "beta_schedule": "sigmoid", "timestep_spacing": "linspace"}, 5, {},
    ),
    "dpm-solver": ("DPMSolverMultistepScheduler", {}, 6, {}),
    "dpm-solver-heun-v": (
        "DPMSolverMultistepScheduler",
        {"solver_type": "heun", "prediction_type": "v_prediction", "final_sigmas_type": "sigma_min"}, 16, {},
    ),
    "dpm-solver-order-3": ("DPMSolverMultistepScheduler", {"solver_order": 3, "timestep_spacing": "trailing"}, 8, {}),
    "dpm-solver-karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "beta_schedule": "scaled_linear", "timestep_spacing": "leading", "steps_offset": 1},
        6, {},
    ),
    "dpm-solver-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 6, {}),
    "dpm-solver-flow": ("DPMSolverMultistepScheduler", {**FLOW, "flow_shift": 5.0}, 6, {}),
    "euler-flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 5, {}),
    "euler-flow-dynamic": (
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}, 6, {"mu": 1.3},
    ),
    "euler-flow-linear": (
        "FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}, 4, {"mu": 2.0},
    ),
    "euler-flow-karras": ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}, 5, {}),
    "unipc": ("UniPCMultistepScheduler", {}, 6, {}),
    "unipc-flow": ("UniPCMultistepScheduler", {**FLOW, "flow_shift": 3.0}, 8, {}),
    "unipc-bh1-order-3": (
        "UniPCMultistepScheduler",
        {"solver_type": "bh1", "solver_order": 3, "prediction_type": "v_prediction", "disable_corrector": [0], "final_sigmas_type": "sigma_min"}, 9, {},
    ),
    "unipc-noise": (
        "UniPCMultistepScheduler",
        {"predict_x0": False, "timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}, 7, {},
    ),
    "cogvideox-ddim": (
        "CogVideoXDDIMScheduler",
        {
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
            "snr_shift_scale": 3.0,
        },
        6, {},
    ),
    "cogvideox-dpm": (
        "CogVideoXDPMScheduler",
        {
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
            "snr_shift_scale": 1.0,
        },
        6, {},
    ),
}  # fmt: skip


def make_schedulers():
    """A prediction that depends on sample and time, so that a wrong order of steps shows."""
    size, cases = 6, {}
    for name, (kind, config, steps, arguments) in SCHEDULERS.items():
        scheduler = getattr(diffusers, kind)(**config)
        scheduler.set_timesteps(steps, **arguments)
        start = torch.Generator().manual_seed(5)
        sample = torch.randn(1, size, generator=start)
        case = {"config": json.loads(scheduler.to_json_string()), "steps": steps, **arguments}
        case |= {"initial": sample[0].tolist(), "timesteps": scheduler.timesteps.tolist()}
        case["predictions"], case["samples"], case["noises"] = [], [], []
        noise = torch.Generator().manual_seed(6)
        previous = None
        for i, t in enumerate(scheduler.timesteps):
            prediction = torch.sin(3 * sample + torch.arange(size)) + 0.3 * float(t) / 1000 * sample
            before = noise.get_state()
            if kind == "CogVideoXDPMScheduler":
                back = scheduler.timesteps[i - 1] if i > 0 else None
                after, previous_new = scheduler.step(prediction, previous, t, back, sample, generator=noise)
                second = previous is not None
                previous = previous_new
            elif kind in ["DDPMScheduler"] or "sde" in config.get("algorithm_type", ""):
                after = scheduler.step(prediction, t, sample, generator=noise).prev_sample
            else:
                after = scheduler.step(prediction, t, sample).prev_sample
            drawn = []
            if not torch.equal(before, noise.get_state()):
                again = torch.Generator()
                again.set_state(before)
                while not torch.equal(again.get_state(), noise.get_state()):
                    drawn.append(torch.randn(1, size, generator=again)[0].tolist())
            # The last draw is the one that counts where a step draws twice.
            case["noises"].append(drawn[-1] if drawn else None)
            case["predictions"].append(prediction[0].tolist())
            case["samples"].append(after[0].tolist())
            sample = after
        cases[name] = case
    text = json.dumps(cases, default=lambda x: x if not isinstance(x, np.generic) else x.item(), indent=None)
    (FIXTURES / "schedulers.json").write_text(text.replace('}, "', '},\n"') + "\n")


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    make_schedulers()
    make_pipelines()
