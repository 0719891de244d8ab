"""VGG19 against torchvision's and timm's, where they are installed, and against what is published of it."""

import pytest
import torch
from torch import nn

import racecar
from racecar.study.vgg.network import BLOCKS, DEPTH, HEAD, VGG19, from_timm, initialise, to_timm


@pytest.fixture(scope="module")
def small() -> VGG19:
    model = VGG19(7, 4, 2)
    initialise(model, 0)
    return model


def test_it_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        model = VGG19()
    assert sum(p.numel() for p in model.parameters()) == 143_667_240
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == DEPTH == sum(map(len, BLOCKS))


def test_the_forward_pass_is_the_one_written_by_hand(small) -> None:
    x = torch.randn(2, 3, 64, 64)
    weights, number = small.state_dict(), 0
    h = x
    for block in BLOCKS:
        for _ in block:
            h = torch.relu(nn.functional.conv2d(h, weights[f"features.{number}.weight"], padding=1))
            number += 2
        h, number = nn.functional.max_pool2d(h, 2), number + 1
    h = h.flatten(1)
    for layer in (0, 3):
        h = torch.relu(h @ weights[f"classifier.{layer}.weight"].T)
    expected = h @ weights[f"{HEAD}.weight"].T  # biases are 0 at the start
    torch.testing.assert_close(small.eval()(x), expected)


def test_initialisation_is_he_and_a_function_of_the_seed(small) -> None:
    again, other = VGG19(7, 4, 2), VGG19(7, 4, 2)
    initialise(again, 0)
    initialise(other, 1)
    kernel = "features.34.weight"
    assert torch.equal(again.state_dict()[kernel], small.state_dict()[kernel])
    assert not torch.equal(other.state_dict()[kernel], small.state_dict()[kernel])
    assert float(small.state_dict()[kernel].std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)


def test_weights_say_width_and_size(small) -> None:
    found = VGG19.of(small.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found.eval()(x), small.eval()(x))


@pytest.mark.parametrize(
    "weights",
    [{}, {"fc.weight": torch.zeros(3, 3)}, {"features.0.weight": torch.zeros(4, 3, 3, 3)}],
    ids=["nothing", "another network", "a part"],
)
def test_other_weights_are_refused(weights) -> None:
    with pytest.raises(ValueError, match="not the weights of a VGG19"):
        VGG19.of(weights)


def test_timms_names_and_shapes_lead_back(small) -> None:
    theirs = to_timm(small.state_dict())
    assert theirs["pre_logits.fc1.weight"].shape == (256, 32, 2, 2)
    assert theirs["pre_logits.fc2.weight"].shape == (256, 256, 1, 1)
    assert theirs["head.fc.weight"].shape == (7, 256)
    back = from_timm(theirs)
    assert back.keys() == small.state_dict().keys()
    assert all(torch.equal(back[k], v) for k, v in small.state_dict().items())


def test_weights_are_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    with torch.device("meta"):
        theirs, ours = models.vgg19(), VGG19()
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (theirs, ours)]
    assert shapes[0] == shapes[1]
    full = models.vgg19()
    ours = VGG19.of(full.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x), full.eval()(x))


def test_weights_are_timms() -> None:
    timm = pytest.importorskip("timm", exc_type=ImportError)
    theirs = timm.create_model("vgg19").eval()
    ours = VGG19.of(theirs.state_dict()).eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=1e-4)
    theirs.load_state_dict(to_timm(ours.state_dict()))


def test_all_sixteen_convolutions_are_mirrored_down_to_the_picture(small) -> None:
    x = torch.randn(2, 3, 64, 64)
    rr = racecar.Racecar(small.eval(), x, layers=16)
    pairs = rr.reconstruct(x)
    assert next(iter(pairs)) == "features.0"
    assert len(rr.layers) == 16
    assert all(a.shape == b.shape for a, b in pairs.values())
    # The last layer by hand: the reverse pass starts before the last pooling, which would only lose detail.
    inner, outer = pairs["features.34"]
    top = small.features[:36](x)
    weight, bias = small.features[34].weight, small.features[34].bias
    expected = nn.functional.conv_transpose2d(top - bias.view(1, -1, 1, 1), weight, padding=1)
    torch.testing.assert_close(inner, small.features[:34](x))
    torch.testing.assert_close(outer, expected.relu(), atol=1e-4, rtol=1e-4)
