"""The memory of a step of a deep transformer, with what checkpointing leaves of it.

    python benchmarks/recompute.py --table results/recompute.md

GPT-2 of Hugging Face with 24 blocks, its dropout included. Memory is what a step needs beyond weights, their gradients
and the input: activations, estimates, what the backward pass needs. Each way is measured in a process of its own; the
times are of one process in which the ways take turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from peak import mebibytes_in_a_process, memory
from timing import DEVICE, Step, keep_freed_memory, turns
from transformers import GPT2Config, GPT2LMHeadModel

import racecar
from racecar.study.core.environment import environment
from racecar.study.core.files import write_text
from racecar.study.report.markdown import markdown

BLOCKS, WIDTH, TOKENS, SAMPLES, WORDS = 24, 128, 256, 16, 1000
WAYS: dict[str, dict[str, Any] | None] = {
    "Std": None,
    "Std, each block computed again": None,
    "RR": {},
    "RR, `checkpoint=True`": {"checkpoint": True},
    'RR, `checkpoint="both"`': {"checkpoint": "both"},
}


def make_step(way: str) -> Step:
    """Forward, reverse, backward; gradients stay where they are."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=BLOCKS, n_embd=WIDTH, n_head=2, n_positions=TOKENS, vocab_size=WORDS, use_cache=False, bos_token_id=0,
        eos_token_id=0, activation_function="gelu_pytorch_tanh",
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(DEVICE).train()
    if way.endswith("computed again"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.randint(WORDS, (SAMPLES, TOKENS), device=DEVICE)
    options = WAYS[way]
    rr = None if options is None else racecar.Racecar(model, {"input_ids": tokens[:2], "labels": tokens[:2]}, **options)

    def step() -> None:
        output, penalty = rr(input_ids=tokens, labels=tokens) if rr else (model(input_ids=tokens, labels=tokens), 0.0)
        (output["loss"] + penalty).backward()
        model.zero_grad(set_to_none=False)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=40.0, help="of timing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(memory(make_step(options.memory_of)))
        return
    keep_freed_memory()
    about = environment()
    peaks = {way: mebibytes_in_a_process([__file__, "--memory-of", way]) for way in WAYS}
    times = turns({way: make_step(way) for way in WAYS}, options.seconds)
    std, again = "Std", "Std, each block computed again"
    rows = []
    for way in WAYS:
        peak, of_std, of_again = "—", "—", "—"
        if (mib := peaks[way]) is not None and peaks[std] and peaks[again]:
            peak, of_std, of_again = f"{mib:.0f}", f"{mib / peaks[std]:.2f}", f"{mib / peaks[again]:.2f}"
        rows.append([way, peak, of_std, of_again, f"{times[way]:.2f}", f"{times[way] / times[std]:.2f}"])
    header = ["way", "MiB of a step", "of Std's", "of Std's with blocks computed again", "s a step", "of Std's"]
    table = "\n".join(markdown(header, rows))
    text = f"""# The memory of a deep transformer's step

`python benchmarks/recompute.py --seconds {options.seconds:g} --threads {options.threads}`

{about["processor"]}, {options.threads} thread(s), torch {about["torch"]}, Python {about["python"]}, revision \
{about["revision"]}. GPT-2 with {BLOCKS} blocks of {WIDTH} units, dropout 0.1, {SAMPLES} × {TOKENS} tokens of {WORDS}, \
float32. Memory at its peak, beyond weights, gradients and input; RR has a second gradient of each weight in it, as \
autograd keeps that of the reverse use until that of the forward use is there. Best times of turns in one process.

{table}
"""
    print(text)
    if options.table is not None:
        write_text(options.table, text)


if __name__ == "__main__":
    main()
