"""Models that people use, as they are: from their configurations, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import racecar

transformers = pytest.importorskip("transformers")

BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def images(n: int = 2) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(n, 3, 32, 32)}


def tokens(n: int = 2) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 50, (n, 10)), "attention_mask": torch.ones(n, 10, dtype=torch.long)}


def resnet() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))


def convnext() -> nn.Module:
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "drop_path_rate": 0.1}
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes))


def vit(attention: str) -> nn.Module:
    config = transformers.ViTConfig(**BODY, image_size=32, patch_size=8, attn_implementation=attention)
    return transformers.ViTForImageClassification(config)


def swin() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4}
    return transformers.SwinForImageClassification(transformers.SwinConfig(**sizes))


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **BODY))


def gpt2() -> nn.Module:
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, use_cache=False, **ends)
    return transformers.GPT2LMHeadModel(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[..., dict[str, Tensor]]]] = {
    "ResNet": (resnet, images),
    "ConvNeXt": (convnext, images),
    "ViT": (lambda: vit("sdpa"), images),
    "ViT, attention written out": (lambda: vit("eager"), images),
    "Swin": (swin, images),
    "BERT": (bert, tokens),
    "GPT-2": (gpt2, tokens),
}


def mirrored(rr: racecar.Racecar) -> dict[str, nn.Parameter]:
    """The weight matrices and kernels of all layers that the reverse pass reuses."""
    modules = dict(rr.model.named_modules())
    paths = {s.layer.partition("#")[0] for s in rr.explain().steps if s.mirrored}
    return {f"{p}.{n}": w for p in paths for n, w in modules[p].named_parameters(recurse=False) if w.ndim > 1}


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_mirrored_and_every_mirrored_weight_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    model = make().train()
    rr = racecar.Racecar(model, inputs(), layers="all")
    weights = mirrored(rr)
    body = {n for n, p in model.named_parameters() if p.ndim > 1 and "embed" not in n and "wte" not in n}
    queries = {n for n in body if any(part in n for part in ("query", "key", "q_proj", "k_proj", "position", "wpe"))}
    assert body - queries <= weights.keys() | _tied(model)
    rr(**inputs())[1].backward()
    assert not [n for n, w in weights.items() if w.grad is None or not bool(w.grad.abs().sum() > 0)]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def _tied(model: nn.Module) -> set[str]:
    """Names of weights that are known by another name too."""
    every = list(model.named_parameters(remove_duplicate=False))
    return {n for n, p in every if sum(p is q for _, q in every) > 1}


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_the_models_own_whatever_the_batch(name: str) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()  # without dropout
    rr = racecar.Racecar(model, inputs())
    rr.training = True
    for size in (2, 5):
        x = inputs(size)
        output, penalty = rr(**x)
        torch.testing.assert_close(output.logits, model(**x).logits)
        assert penalty.item() > 0


@pytest.mark.parametrize("name", ["ViT", "BERT"])
def test_the_class_token_alone_is_known_behind_the_last_attention(name: str) -> None:
    make, inputs = MODELS[name]
    rr = racecar.Racecar(make().train(), inputs(), layers="all")
    shares: dict[str, Any] = {s.layer: s.known for s in rr.explain().steps if s.compared is not None}
    last = [share for layer, share in shares.items() if ".1." in layer and ("fc" in layer or "dense" in layer)]
    count = 17 if name == "ViT" else 10
    assert pytest.approx(1 / count) in last
    assert all(share == 1 for layer, share in shares.items() if ".0." in layer)
