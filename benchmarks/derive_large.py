"""What it costs to derive a large model before its weights are loaded, and after: seconds and memory on one thread.

    python benchmarks/derive_large.py --table results/derivation-large.md

Models of Hugging Face from their configurations; nothing is downloaded. "On the meta device": the model has no values,
and the proof is left for the first call with weights. "With weights": ``verify=False``, so that both do the same.
(:mod:`derive` measures the proof.) Memory is the peak above what was there with the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from derive import Peak
from torch import Tensor, nn


def _vit() -> nn.Module:
    import transformers as hf

    return hf.ViTForImageClassification(
        hf.ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    )


def _convnext() -> nn.Module:
    import transformers as hf

    return hf.ConvNextForImageClassification(
        hf.ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[192, 384, 768, 1536])
    )


def _llama() -> nn.Module:
    """Of the shape of Llama 3.2 1B."""
    import transformers as hf

    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, use_cache=False, tie_word_embeddings=True,
        )
    )  # fmt: skip


def images() -> Tensor:
    return torch.zeros(2, 3, 224, 224)


def tokens() -> Tensor:
    return torch.zeros(2, 1024, dtype=torch.long)


# Every second block's down projection: L_m of half of the depth, as one would compare in a deep decoder.
DOWN = [f"model.layers.{i}.mlp.down_proj" for i in range(0, 16, 2)]
MODELS: dict[str, tuple[str, Callable[[], nn.Module], Callable[[], Tensor], dict[str, Any]]] = {
    "vit": ("ViT-L/16, 224 × 224, all linear layers", _vit, images, {"layers": "all"}),
    "convnext": ("ConvNeXt-L, 224 × 224, all convolutions", _convnext, images, {}),
    "llama": ("Llama-like, 1 B, 1024 tokens, `layers=` 8 down projections", _llama, tokens, {"layers": DOWN}),
}


def one(name: str, meta: bool) -> dict[str, Any]:
    """A derivation, in a process of its own."""
    import racecar

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    racecar.Racecar(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.zeros(2, 3))  # imports what it needs
    _, build, example, options = MODELS[name]
    with torch.device("meta" if meta else "cpu"):
        model = build()
    x = example()
    with Peak() as peak:
        began = time.process_time()
        rr = racecar.Racecar(model, x, verify=False, **options)
        took = time.process_time() - began
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    return {"seconds": took, "memory": peak.peak, "layers": len(rr.layers), "weights": weights}


def measured(name: str, meta: bool) -> dict[str, Any]:
    own = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, __file__, "--one", name, *(["--meta"] if meta else [])]
    ran = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    line = next((line for line in ran.stdout.splitlines() if line.startswith("{")), None)
    return json.loads(line) if line else {"why": (ran.stderr.strip().splitlines() or ["killed"])[-1][:300]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--meta", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.meta)), flush=True)
        return
    from importlib.metadata import version

    from racecar.study.core.environment import environment
    from racecar.study.core.files import write_text

    about = environment()
    lines = [
        "# What it costs to derive a large model",
        "",
        f"`python benchmarks/derive_large.py`: {about['processor']}, 1 thread, torch {about['torch']}, transformers "
        f"{version('transformers')}, revision {about['revision']}; one run each. Seconds of processor time of "
        "`racecar.Racecar(model, x, verify=False)`; memory in MiB, the peak above what was there with the model, which "
        "has no values on the meta device. A copy of the weights would show as so much memory.",
        "",
        "| model | compared layers | weights, MiB | meta device: seconds | memory | with weights: seconds | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in options.models:
        without, loaded = measured(name, meta=True), measured(name, meta=False)
        cells = [c for row in (without, loaded) for c in _cells(row)]
        known = next((row for row in (without, loaded) if "why" not in row), {"layers": 0, "weights": 0.0})
        lines.append(f"| {MODELS[name][0]} | {known['layers']} | {known['weights']:.0f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.table:
        write_text(options.table, "\n".join(lines) + "\n")


def _cells(row: dict[str, Any]) -> tuple[str, str]:
    return (f"no: {row['why']}", "") if "why" in row else (f"{row['seconds']:.0f}", f"{row['memory']:.0f}")


if __name__ == "__main__":
    main()
