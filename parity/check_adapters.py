"""
Loads adapter files that Plumb wrote into the models of denoiser_cases.py with diffusers, and compares predictions with those
of the cases.

    python check_adapters.py --cases cases --written folder

Needs requirements.txt.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from denoiser_cases import MAKERS, check_adapter_file

LIMIT = 1e-5


def main():
    parser = argparse.ArgumentParser(description="Loads adapters that Plumb wrote with diffusers.")
    parser.add_argument("--cases", required=True, help="folder of the cases")
    parser.add_argument("--written", required=True, help="folder with <name>.safetensors for each denoiser")
    arguments = parser.parse_args()
    tensors = load_file(Path(arguments.cases) / "denoisers.safetensors")
    worst = 0.0
    for name in MAKERS:
        found = check_adapter_file(name, str(Path(arguments.written) / f"{name}.safetensors")).numpy()
        base, expected = (tensors[f"{name}:prediction.{role}"] for role in ("base", "adapted"))
        if np.allclose(base, expected, rtol=1e-2):
            sys.exit(f"{name}: the adapters of the case change nothing")
        error = np.abs(found - expected).max() / np.abs(expected).max()
        if not error <= LIMIT:
            sys.exit(f"{name}: diffusers predicts otherwise with the adapters that Plumb wrote: relative error {error:.1e}")
        worst = max(worst, error)
    print(f"{len(MAKERS)} adapter files load in diffusers: largest relative error {worst:.1e}, limit {LIMIT:.0e}")


if __name__ == "__main__":
    main()
