"""``racecar regenerate``: the pairs are the reverse pass's own, and pictures may come alone or in company."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import racecar
from racecar.study import Recipe, regenerate, train

from .conftest import NET


def seen(names: list[str]) -> torch.Tensor:
    about = json.loads(Path("a/model.json").read_text())
    mean, std = (np.array(about["input"][k], np.float32) for k in ("mean", "std"))
    pixels = np.stack([(np.array(Image.open(n), np.float32) / 255 - mean) / std for n in names])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_errors_and_pictures_are_the_reverse_passs(trained, command) -> None:
    words = ("regenerate", "--from", "a", "--model", NET, "data/test/cat")
    code, out, err = command(*words)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    names = [r["picture"] for r in rows]
    assert len(names) == 9
    rr = racecar.Racecar(trained.load(NET).eval(), seen(names[:2]))
    rr.eval()
    with torch.no_grad():
        pairs = rr.reconstruct(seen(names))
    for layer, (a, b) in pairs.items():
        expected = (a - b).square().flatten(1).mean(1) / 2
        np.testing.assert_allclose([float(r[f"error_{layer}"]) for r in rows], expected.numpy(), rtol=1e-3)
    assert "trained with its reverse pass; seen among one another" in err
    assert "measure it on pictures that you know" in err
    with Image.open("regenerated.png") as picture:
        assert picture.width > 300
    found = regenerate(trained, "data/test/cat", model=NET)
    given, made = found.pictures()
    np.testing.assert_allclose(given[3].permute(1, 2, 0).numpy() * 255, np.array(Image.open(names[3])), atol=1e-3)
    about = json.loads(Path("a/model.json").read_text())
    scale = torch.tensor(about["input"]["std"]).view(1, -1, 1, 1)
    layer_error = 0.5 * ((given - made) / scale).square().flatten(1).mean(1)
    torch.testing.assert_close(layer_error, found.errors[:, 0], rtol=1e-3, atol=1e-6)


def test_company_makes_a_picture_independent_of_the_others(trained, command) -> None:
    alone = regenerate(trained, "data/test/cat/0.png", beside="data", model=NET)
    assert alone.usual is not None
    assert alone.usual.shape == (27, 2)
    assert alone.words.endswith("seen among 27 images of data")
    (share,) = alone.above().tolist()
    assert share == pytest.approx(float((alone.usual[:, 0] < alone.errors[0, 0]).double().mean()))
    code, out, err = command("regenerate", "--from", "a", "--model", NET, "data/test/cat/0.png", "--beside", "data")
    assert code == 0, err
    (row,) = csv.DictReader(io.StringIO(out))
    assert float(row["regenerated_better"]) == pytest.approx(share, abs=1e-3)
    # The same picture among its twins is regenerated otherwise: batch norm.
    assert not torch.allclose(regenerate(trained, "data/test/cat/0.png", model=NET).errors, alone.errors, rtol=1e-3)


def test_one_picture_and_a_plain_network(data, command) -> None:
    train(NET, "data", out="plain", recipe=Recipe(epochs=1, batch_size=8))
    code, out, err = command(
        "regenerate", "--from", "plain", "--model", NET, "data/test/cat/0.png", "--errors", "e.csv", "--out", "o/r.png"
    )
    assert code == 0, err
    assert out == ""
    assert "trained plainly, without its reverse pass" in err
    assert len(Path("e.csv").read_text().splitlines()) == 2
    assert Path("o/r.png").exists()
