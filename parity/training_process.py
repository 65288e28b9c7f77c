"""
The training step that `npm run bench -- trainer` compares with: PyTorch training the video DiT on the CPU.

    python training_process.py <model.safetensors> <feeds.safetensors> eager|bf16-compiled <threads> <optimiser JSON>

Reads one line on standard input for every step and answers each with one line of JSON: seconds, cpuSeconds, loss,
gradientNorm and peakBytes of this process. The first line, before any step, says what was loaded.
"""

import json
import resource
import sys
import time

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from plumb_torch.losses import forward_projection
from plumb_torch.video_dit import Shape, denoise, levels, noised_and_target



def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(**fields):
    print(json.dumps(fields), flush=True)


def main(model_path, feeds_path, mode, threads, optimiser):
    torch.set_num_threads(int(threads))
    settings = json.loads(optimiser)
    with safe_open(model_path, "pt") as file:
        config = json.loads(file.metadata()["plumb.config"])
    shape = Shape(config, torch.float32)
    weights = {name: tensor.requires_grad_() for name, tensor in load_file(model_path).items()}
    average = {name: tensor.detach().clone() for name, tensor in weights.items()}
    feeds = load_file(feeds_path)
    feeds["tokens"] = feeds["tokens"].long()
    feeds["time"] = feeds["time"].flatten()

    def group(decayed):
        return lambda name: name.endswith(".weight") == decayed and not name.endswith(".relative")

    groups = [
        (group(True), 1, settings["weightDecay"]),
        (group(False), 1, 0.0),
        (lambda name: name.endswith(".relative"), settings["relativeRate"], 0.0),
    ]
    # The fused kernel is PyTorch's fastest on the CPU.
    adamw = torch.optim.AdamW(
        [
            {
                "params": [tensor for name, tensor in weights.items() if chosen(name)],
                "lr": settings["learningRate"] * multiplier,
                "weight_decay": decay,
            }
            for chosen, multiplier, decay in groups
        ],
        betas=(settings["beta1"], settings["beta2"]),
        eps=settings["epsilon"],
        fused=True,
    )

    parameterisation = config["parameterisation"]

    def loss_of(x0, noise, times, tokens, sample_weights):
        noised, target = noised_and_target(parameterisation, x0, noise, *levels(parameterisation, times))
        prediction = denoise(shape, weights, noised, times, tokens)
        return forward_projection(target, prediction, None, sample_weights, 0)[0]

    compiled = mode == "bf16-compiled"
    objective = torch.compile(loss_of) if compiled else loss_of
    values, averages = list(weights.values()), list(average.values())

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=compiled):
            loss = objective(feeds["x0"], feeds["noise"], feeds["time"], feeds["tokens"], feeds["weights"])
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(values, settings["clipNorm"], foreach=True)
        adamw.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, values, 1 - settings["emaDecay"])
        return loss.item(), norm.item()

    say(version=torch.__version__, threads=torch.get_num_threads(), peakBytes=peak_bytes())
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        loss, norm = step()
        say(
            seconds=time.perf_counter() - start,
            cpuSeconds=time.process_time() - cpu,
            loss=loss,
            gradientNorm=norm,
            peakBytes=peak_bytes(),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
