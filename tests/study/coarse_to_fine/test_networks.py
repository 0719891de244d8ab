"""The networks of the pairs, where their reverse passes begin, and what is probed."""

import pytest
import torch

import racecar
from racecar.study.classification.batches import InMemory, Normalisation
from racecar.study.classification.recipe import Recipe
from racecar.study.coarse_to_fine.networks import SHAPES, Classifier, features
from racecar.study.coarse_to_fine.pretraining import pretrain
from racecar.study.core.callbacks import Callbacks
from racecar.study.images.decoded import Images


def made(kind: str, **more: int) -> tuple[Classifier, torch.Tensor]:
    channels, size = (1, 14) if kind == "mlp" else (3, 32)
    model = Classifier(kind, 2, channels=channels, size=size, width=4, seed=0, **more)  # type: ignore[arg-type]
    return model, torch.rand(8, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "start", "count"), [("mlp", "start", 3), ("conv", "start", 7), ("conv", "pooled", 7)])
def test_the_reverse_pass_begins_at_the_features_and_compares_the_body_alone(kind, start, count) -> None:
    model, x = made(kind)
    rr = racecar.Racecar(model, x, layers=SHAPES[kind].depth, start=getattr(SHAPES[kind], start))
    assert len(rr.layers) == count == SHAPES[kind].depth
    assert all(name.startswith("body.") for name in rr.layers)


def test_the_mlps_reverse_pass_is_the_one_written_by_hand() -> None:
    model, x = made("mlp")
    rr = racecar.Racecar(model, x, layers=3, start=SHAPES["mlp"].start)
    fc = [model.body.fc1, model.body.fc2, model.body.fc3]
    forward = [x.flatten(1)]
    for layer in fc:
        forward.append(torch.relu(layer(forward[-1])))
    estimate, expected = forward[3], 0.0
    for number in (2, 1, 0):
        estimate = (estimate - fc[number].bias) @ fc[number].weight
        estimate = torch.relu(estimate) if number else estimate
        expected = expected + 0.5 * (forward[number] - estimate).square().mean()
    torch.testing.assert_close(rr(x)[1], expected)


def test_features_are_what_enters_the_head_or_the_projector() -> None:
    for kind, projector in (("mlp", 0), ("mlp", 16), ("conv", 16)):
        model, x = made(kind, projector=projector)
        found, cells = features(model, x, SHAPES[kind].before)
        torch.testing.assert_close(model.head(model.projector(found)), model(x))
        assert (cells is None) == (kind == "mlp")
        if cells is not None:
            whole = model.body[: list(dict(model.body.named_children())).index("pool")](x)
            torch.testing.assert_close(cells, torch.nn.functional.adaptive_avg_pool2d(whole, 2).flatten(1))


def test_the_body_begins_alike_with_and_without_a_projector() -> None:
    (plain, _), (projected, _) = made("mlp"), made("mlp", projector=16)
    for name, weight in plain.body.state_dict().items():
        assert torch.equal(weight, projected.body.state_dict()[name])


def test_greedy_pretraining_teaches_every_layer_to_be_undone_and_leaves_the_head() -> None:
    model, x = made("mlp")
    pixels = (torch.rand(64, 1, 14, 14, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    images = Images(pixels, torch.zeros(64, dtype=torch.long), ("a", "b"))
    batches = InMemory(images, images, Normalisation.unit(1)).batches(16, 0, "none", 0, 1)
    shape = SHAPES["mlp"]

    def distances() -> list[float]:
        """Of L_m and L'_m, over the size of L_m: training the layer before changes what is to be regenerated."""
        rr = racecar.Racecar(model, x, layers=3, start=shape.start, layerwise=True)
        return [((a - b).square().sum() / a.square().sum()).item() for a, b in rr.reconstruct(x).values()]

    before, head = distances(), model.head.weight.detach().clone()
    assert pretrain(model, batches, 20, Recipe(), shape, x, Callbacks())
    after = distances()
    assert all(b < a for a, b in zip(before, after, strict=True))
    assert torch.equal(model.head.weight, head)
    assert all(p.grad is None for p in model.parameters())
    assert not pretrain(model, batches, 1, Recipe(), shape, x, Callbacks(stop=lambda: True))
