"""Which models the palindrome derives for, and how well it regenerates their layers: torchvision, timm, Hugging Face,
and small models of other libraries (:mod:`libraries`).

    python benchmarks/coverage.py --table results/coverage.md
    python benchmarks/coverage.py --libraries third --step --table results/coverage-third.md

Every model is built with random weights (nothing is downloaded) in a process of its own. A row says whether the
palindrome was derived with ``layers="all"`` and every mirrored weight got a gradient from the penalty alone; which
share of all weights is mirrored; the mean over layers of ‖L_m − L'_m‖² / ‖L_m‖², with random weights and after a few
steps of Adam on the penalty and cross entropy (on the mean square of what is no classification); and the seconds to
derive. ``--step`` adds whether output and gradient are the plain model's where λ is 0, and the time of a step.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from libraries import THIRD
from timing import turns
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from racecar.study.core.environment import environment
from racecar.study.core.files import write_text

SECONDS = 900  # for one model
Inputs = dict[str, Any]


def torchvision_models() -> list[str]:
    """All of torchvision's classification models."""
    import torchvision

    return [f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)]


SMALL = (
    *("test_", "atto", "femto", "pico", "nano", "xxs", "xxt", "zepto", "micro", "tiny", "xs", "_t", "small", "_s"),
    *("mini", "b0", "lite", "light", "_p4", "_0"),
)


def timm_models() -> list[str]:
    """One model of every timm family (module of timm.models), a small one by its name."""
    import timm

    def size(name: str) -> tuple[Any, ...]:
        word = next((i for i, word in enumerate(SMALL) if word in name), len(SMALL))
        return word, len(name), [float(n) for n in re.findall(r"\d+", name)]

    families = {family: timm.list_models(module=family) for family in timm.list_modules()}
    return [f"timm:{min(names, key=size)}" for names in families.values() if names]


HUGGING_FACE = ("ResNet", "ConvNext", "ViT", "Swin", "Bert", "GPT2")


def build(name: str) -> tuple[nn.Module, Callable[[int], Inputs], int]:
    """(model in training mode, inputs by batch size, classes; 0: no classifier)."""
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    if library in THIRD:
        net, inputs = THIRD[library]()[model]()
        return net.train(), inputs, 0
    if library == "hf":
        return hugging_face(model)
    if library == "torchvision":
        import torchvision

        options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
        net = torchvision.models.get_model(model, weights=None, **options)
        size = {"inception_v3": 299, "maxvit_t": 224}.get(model, 224 if model.startswith("vit") else 128)
        if model == "vit_h_14":
            size = 224
    else:
        import timm

        net = timm.create_model(model, pretrained=False)
        size = net.default_cfg.get("input_size", (3, 224, 224))[-1]
        if size > 512:  # attention over so many patches takes more memory than there is
            size = 224
            net = timm.create_model(model, pretrained=False, img_size=size)
        if not net.default_cfg.get("fixed_input_size", False) and size > 128:
            try:
                with torch.no_grad():
                    net.eval()(torch.randn(1, 3, 128, 128))
                size = 128
            except Exception:  # the family has a fixed size without saying so
                net = timm.create_model(model, pretrained=False)
    return net.train(), lambda n: {"x": torch.randn(n, 3, size, size)}, 1000


def hugging_face(model: str) -> tuple[nn.Module, Callable[[int], Inputs], int]:
    """From its configuration, small."""
    import transformers as t

    body = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    stages = {"depths": [1, 1, 2, 1]}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    decoder = {"n_embd": 64, "n_layer": 4, "n_head": 4, "use_cache": False, **ends}
    found: dict[str, Callable[[], nn.Module]] = {
        "ResNet": lambda: t.ResNetForImageClassification(t.ResNetConfig(num_labels=10)),
        "ConvNext": lambda: t.ConvNextForImageClassification(t.ConvNextConfig(num_labels=10, **stages)),
        "ViT": lambda: t.ViTForImageClassification(t.ViTConfig(num_labels=10, image_size=64, patch_size=8, **body)),
        "Swin": lambda: t.SwinForImageClassification(
            t.SwinConfig(num_labels=10, image_size=64, patch_size=2, window_size=4, depths=[2, 2], num_heads=[2, 4])
        ),
        "Bert": lambda: t.BertForSequenceClassification(t.BertConfig(num_labels=10, vocab_size=100, **body)),
        "GPT2": lambda: t.GPT2ForSequenceClassification(t.GPT2Config(num_labels=10, vocab_size=100, **decoder)),
    }
    if model in ("Bert", "GPT2"):
        tokens = lambda n: {"input_ids": torch.randint(3, 100, (n, 24))}  # noqa: E731
        return found[model]().train(), tokens, 10
    return found[model]().train(), lambda n: {"pixel_values": torch.randn(n, 3, 64, 64)}, 10


def task_loss(output: Any, classes: int) -> Tensor:
    """Cross entropy of a classifier, the mean square of any other output."""
    if classes:
        scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        scores = output[0] if scores is None else scores
        return F.cross_entropy(scores, torch.arange(len(scores)) % classes)
    found = [t for t in tree_leaves(as_plain(output)) if isinstance(t, Tensor) and t.requires_grad]
    return torch.stack([t.square().mean() for t in found]).sum()


def as_plain(output: Any) -> Any:
    """An output with fields, as Hugging Face's libraries have them, as a dict."""
    return dict(output) if hasattr(output, "keys") else output


def examine(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    import racecar

    net, inputs, classes = build(name)
    total = sum(p.numel() for p in net.parameters())
    row: dict[str, Any] = {"model": name, "weights": total}
    x = inputs(2)
    began = time.perf_counter()
    rr = racecar.Racecar(net, x, layers="all")
    row["seconds"] = time.perf_counter() - began
    table = rr.explain().steps
    mirrored = {s.layer.partition("#")[0] for s in table if s.mirrored}
    row["layers"] = len(rr.layers)
    row["mirrored"] = len(mirrored)
    row["partly"] = sum(s.known < 1 for s in table if s.compared is not None)
    # The weights that the reverse pass reads are those the penalty's gradient would not reach through L_m alone.
    reached = gradients_of_the_reverse_pass(rr, x)
    row["share"] = sum(p.numel() for p in reached) / total
    row["lacking"] = without_gradient(rr, x, reached)
    row["random"] = error(rr, x)
    if options.step:
        row["output"], row["gradient"] = differences(rr, x, classes)
        row["step"] = step_over_std(rr, x, classes)
    if total > options.largest:
        return row
    images = inputs(4)
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-3)
    for _ in range(options.steps):
        output, penalty = rr(**images)
        optimiser.zero_grad()
        (task_loss(output, classes) + penalty).backward()
        optimiser.step()
    row["trained"] = error(rr, images)
    row["lacking_trained"] = without_gradient(rr, images, reached)
    return row


def differences(rr: Any, x: Inputs, classes: int) -> tuple[float, float]:
    """Of the program from the plain model where λ is 0: (of the loss, of its gradient), over their own size."""
    found = []
    state = {k: v.clone() for k, v in rr.model.state_dict().items()}
    for call in (lambda: rr.model(**x), lambda: rr(**x)[0]):
        rr.model.load_state_dict(state)
        rr.model.zero_grad()
        torch.manual_seed(0)
        loss = task_loss(call(), classes)
        loss.backward()
        grads = [p.grad.flatten() for p in rr.model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(grads)))
    rr.model.load_state_dict(state)
    rr.model.zero_grad()
    (output, gradient), (ours, ours_gradient) = found
    off = (output - ours).abs() / output.abs().clamp(min=1e-30)
    return float(off), float((gradient - ours_gradient).norm() / gradient.norm().clamp(min=1e-30))


def step_over_std(rr: Any, x: Inputs, classes: int) -> float:
    """Forward and backward pass with the penalty, over those of the plain model: best times of one run."""

    def plain() -> None:
        rr.model.zero_grad()
        task_loss(rr.model(**x), classes).backward()

    def racecar() -> None:
        rr.model.zero_grad()
        output, penalty = rr(**x)
        (task_loss(output, classes) + penalty).backward()

    best = turns({"plain": plain, "racecar": racecar}, 2.0)
    return best["racecar"] / best["plain"]


def gradients_of_the_reverse_pass(rr: Any, x: Inputs) -> list[nn.Parameter]:
    """Parameters of two and more dimensions of mirrored layers, of those that the program reads at all."""
    modules = dict(rr.model.named_modules(remove_duplicate=False))
    found: list[nn.Parameter] = []
    for step in rr.explain().steps:
        if step.mirrored:
            path = step.layer.partition("#")[0]
            while path not in modules:
                path = path.rpartition(".")[0]
            found += [p for p in modules[path].parameters(recurse=False) if p.ndim > 1]
    rr.model.zero_grad()
    task_loss(rr.model(**x), 0).backward()
    return list({id(p): p for p in found if p.grad is not None or not p.requires_grad}.values())


def without_gradient(rr: Any, x: Inputs, reached: list[nn.Parameter]) -> list[str]:
    """Names of the mirrored weights that the penalty alone gives no gradient."""
    rr.model.zero_grad()
    rr(**x)[1].backward()
    trained = [(n, p) for n, p in rr.model.named_parameters() if any(p is r for r in reached) and p.requires_grad]
    lacking = [n for n, p in trained if not _has_gradient(p)]
    rr.model.zero_grad()
    return lacking


def _has_gradient(parameter: nn.Parameter) -> bool:
    # Weights that begin at zero cannot have one: the penalty is quadratic in a last layer's.
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0 or not parameter.any())


def error(rr: Any, x: Inputs) -> float:
    """Mean over the compared layers of ‖L_m − L'_m‖² / ‖L_m‖², where L'_m is known."""
    with torch.no_grad():
        pairs = rr.reconstruct(**x).values()
    found = []
    for left, right in pairs:
        known = ~right.isnan()
        if not left.any():  # behind weights that begin at zero
            continue
        found.append(float((left - right)[known].square().sum() / left.expand_as(right)[known].square().sum()))
    return sum(found) / len(found)


def row_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Examined in a process of its own: its memory is freed, and it may take too long or die."""
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        "--steps",
        str(options.steps),
        "--largest",
        str(options.largest),
        *(["--step"] if options.step else []),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"model": name, "why": f"not finished in {options.seconds} s"}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            return json.loads(line)
    last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return {"model": name, "why": last}


def line_of(row: dict[str, Any], step: bool) -> str:
    """A row of the table, with the two columns of ``--step`` or without."""
    if "why" in row:
        return f"| {row['model']} | no: {row['why'][:800].replace('|', '/')} |" + " |" * (7 + 2 * step)
    lacking = row.get("lacking_trained", row["lacking"])
    derived = "yes" if not lacking else f"yes, without a gradient: {', '.join(lacking[:3])}"
    if len(row["lacking"]) > len(lacking):
        derived += f"; at first none for {', '.join(row['lacking'][:3])}"
    trained = f"{row['trained']:.3g}" if "trained" in row else "not run"
    return (
        f"| {row['model']} | {derived} | {row['weights'] / 1e6:.1f} | {row['share']:.0%} | {row['layers']} | "
        f"{row['partly']} | {row['random']:.3g} | {trained} | {row['seconds']:.1f} |"
        + (f" {row['output']:.0e}, {row['gradient']:.0e} | {row['step']:.2f} |" if step else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--libraries", nargs="+", default=["torchvision", "timm", "hf"], help=f"also third, all of: {', '.join(THIRD)}"
    )
    parser.add_argument("--step", action="store_true", help="also compare and time a step with the plain model's")
    parser.add_argument("--models", nargs="+", default=None, help="these only, e.g. timm:resnet18")
    parser.add_argument("--steps", type=int, default=20, help="of the brief training")
    parser.add_argument("--largest", type=int, default=15_000_000, help="weights of the largest that is trained")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for one model")
    parser.add_argument("--memory", type=int, default=0, help="GiB for one model; 0: no limit")
    parser.add_argument("--table", type=Path, default=None, help="Markdown file to write")
    parser.add_argument("--rows", type=Path, default=Path("runs/coverage"), help="rows measured; a stopped run goes on")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        if options.memory:  # too large a model is a row that says so, not a machine without memory
            resource.setrlimit(resource.RLIMIT_DATA, (options.memory << 30, options.memory << 30))
        try:
            row = examine(options.one, options)
        except Exception as error:
            words = " ".join(str(error).split()) or type(error).__name__
            row = {"model": options.one, "why": f"{type(error).__name__}: {words}"}
        print(json.dumps(row), flush=True)
        return
    names = options.models or [
        *(torchvision_models() if "torchvision" in options.libraries else []),
        *(timm_models() if "timm" in options.libraries else []),
        *([f"hf:{m}" for m in HUGGING_FACE] if "hf" in options.libraries else []),
        *(f"{library}:{m}" for library in THIRD if {library, "third"} & {*options.libraries} for m in THIRD[library]()),
    ]
    about, rows = environment(), []
    asked = {"torch": about["torch"], "steps": options.steps, "largest": options.largest}
    if options.step:
        asked["step"] = True
    for i, name in enumerate(names):
        kept = options.rows / f"{re.sub(r'[^A-Za-z0-9._]+', '-', name)}.json"
        found = json.loads(kept.read_text()) if kept.is_file() else {}
        if found.get("asked") != asked:  # else measured before this run was stopped
            found = {"asked": asked, "row": row_of(name, options) | {"revision": about["revision"]}}
            write_text(kept, json.dumps(found))
        rows.append(found["row"])
        print(f"{i + 1}/{len(names)} {line_of(rows[-1], options.step)}", flush=True)
        if options.table is not None:
            write_text(options.table, "\n".join(page(rows, names, about, options.step)))


def versions(libraries: set[str]) -> list[str]:
    """A line with the versions of the libraries of the third table, if it is that."""
    packages = {
        **{"monai": "monai", "smp": "segmentation-models-pytorch", "diffusers": "diffusers", "peft": "peft"},
        **{"pyg": "torch_geometric", "torchaudio": "torchaudio", "transformers": "transformers"},
    }
    found = [f"{package} {version(package)}" for name, package in packages.items() if name in libraries]
    return ["", f"{', '.join(found)}."] if found else []


def page(rows: list[dict[str, Any]], names: list[str], about: dict[str, str], step: bool) -> list[str]:
    """The table so far, with totals for every library."""
    hidden = {i + d for i, a in enumerate(sys.argv) if a in ("--table", "--rows") for d in (0, 1)}
    given = " ".join(a for i, a in enumerate(sys.argv[1:], 1) if i not in hidden)
    totals = []
    libraries = list(dict.fromkeys(n.partition(":")[0] for n in names))
    for library in libraries:
        mine = [r for r in rows if r["model"].startswith(f"{library}:")]
        good = [r for r in mine if "why" not in r and not r.get("lacking_trained", r["lacking"])]
        totals.append(f"| {library} | {len(good)} of {len(mine)} |")
    revisions = dict.fromkeys(r["revision"] for r in rows)
    missing = [n for n in names if n not in {r["model"] for r in rows}]
    return [
        f"# Models that the palindrome derives for: {', '.join(libraries)}",
        "",
        f"`python benchmarks/coverage.py {given}`".replace(" `", "`"),
        "",
        f"{about['processor']}, 1 thread, torch {about['torch']}, revision {', '.join(revisions)}. Random "
        "weights, seed 0, inputs drawn from a normal distribution.",
        *versions({n.partition(":")[0] for n in names}),
        "",
        "| library | derived, all mirrored weights with a gradient |",
        "|---|---|",
        *totals,
        *(["", f"Not run yet: {', '.join(missing)}."] if missing else []),
        "",
        "| model | derived | weights, millions | mirrored share | compared layers | of them known in part "
        "| error, random weights | error, briefly trained | seconds to derive |"
        + (" loss, gradient off by | step / Std |" if step else ""),
        "|---|---|---|---|---|---|---|---|---|" + "---|---|" * step,
        *[line_of(r, step) for r in rows],
        "",
        'Weights that begin at zero count as having a gradient: nothing comes back through them at first. "At first '
        'none": a gain behind these weights begins at zero; after the brief training they have one.',
        "",
        "Error: mean over the compared layers of ‖L_m − L'_m‖² / ‖L_m‖², where L'_m is known.",
        "",
        *(
            [
                "Loss, gradient off by: of the program where λ is 0, from the plain model's, over their size. "
                + "Step / Std: the time of a forward and backward pass with the penalty over the plain model's, two "
                + "samples, best of two seconds.",
                "",
            ]
            if step
            else []
        ),
    ]


if __name__ == "__main__":
    main()
