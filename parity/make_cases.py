"""
Makes the cases that tensor-graph, diffusion and objective are compared with, in plain PyTorch on the CPU.

Inputs are float32 numbers from fixed seeds. Results are computed in float64 from them, so that the reference has no
rounding of its own to speak of, and are stored as float32. Denoisers, parts of which are written for it, and whole jobs of
trainers/torch are computed in float32.

    python make_cases.py --out cases

Needs requirements.txt.
"""

import argparse

import torch

from case_writer import CaseWriter
from denoiser_cases import add_denoiser_cases
from loss_cases import add_loss_cases
from model_cases import add_model_cases
from operator_cases import add_operator_cases
from trainer_cases import add_trainer_cases


def main():
    parser = argparse.ArgumentParser(description="Makes the parity cases with PyTorch.")
    parser.add_argument("--out", required=True, help="folder to write to; existing cases in it are replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    writer = CaseWriter()
    add_operator_cases(writer)
    add_loss_cases(writer)
    add_model_cases(writer)
    add_denoiser_cases(writer, arguments.out)
    add_trainer_cases(writer, arguments.out)
    writer.write(arguments.out)


if __name__ == "__main__":
    main()
