"""``racecar embed``: vectors of any layer, in files that others open, and probes of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from racecar.study import StudyError, embed

from ..pretrain.conftest import write_images
from .conftest import NET


def by_hand(network: torch.nn.Module, depth: int, names: list[str]) -> np.ndarray:
    """The output of the first layers of a Sequential."""
    about = json.loads(Path("a/model.json").read_text())
    mean, std = (np.array(about["input"][k], np.float32) for k in ("mean", "std"))
    pixels = np.stack([(np.array(Image.open(n), np.float32) / 255 - mean) / std for n in names])
    with torch.no_grad():
        return network.eval()[:depth](torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()


def test_what_enters_the_last_layer_and_probes(trained, command, tmp_path) -> None:
    write_images(tmp_path / "other", classes=("x", "y"), count=25, seed=1, apart=7)
    code, out, err = command("embed", "--from", "a", "--model", NET, "--data", "other", "--probe")
    assert code == 0, err
    found = load_file("features.safetensors")
    with safe_open("features.safetensors", "pt") as file:
        said = {k: json.loads(v) for k, v in file.metadata().items() if k != "checksum"}
    assert said["classes"] == ["x", "y"]
    expected = by_hand(trained.load(NET), 8, said["names"])
    np.testing.assert_allclose(found["vectors"].numpy(), expected, rtol=1e-4, atol=1e-5)
    for name, label, held in zip(said["names"], found["labels"].tolist(), found["validation"].tolist(), strict=True):
        assert Path(name).parts[-3:-1] == ("test" if held else "train", said["classes"][label])
    x, y, held = (found[k].numpy() for k in ("vectors", "labels", "validation"))
    x = x.astype(np.float64)
    scaler = StandardScaler().fit(x[~held])
    # Of two classes scikit-learn has one vector, which stands for two opposite ones of half its length.
    linear = LogisticRegression(C=2 / (1e-3 * 50), tol=1e-8, max_iter=10_000).fit(scaler.transform(x[~held]), y[~held])
    near = KNeighborsClassifier(20, metric="cosine").fit(x[~held], y[~held])
    assert f"linear probe: {linear.score(scaler.transform(x[held]), y[held]):.4f}" in out
    # Of even votes both take the lower label.
    assert f"20 neighbours: {near.score(normalize(x[held]), y[held]):.4f}" in out


@pytest.mark.parametrize(("layer", "depth", "width"), [("0", 1, 8), ("3", 4, 16), ("7", 8, 64)])
def test_any_layer_averaged_over_places_as_parquet(trained, command, layer, depth, width) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    words = ("embed", "--from", "a", "--model", NET, "--layer", layer, "--out", "f.parquet")
    code, out, err = command(*words)
    assert code == 0, err
    assert f"f.parquet: 54 vectors of {width} numbers" in out
    table = parquet.read_table("f.parquet").to_pydict()
    expected = by_hand(trained.load(NET), depth, table["name"])
    expected = expected.mean((2, 3)) if expected.ndim == 4 else expected
    np.testing.assert_allclose(np.array(table["vector"]), expected, rtol=1e-4, atol=1e-5)
    assert [Path(n).parts[-3:-1] for n in table["name"]] == [
        ("test" if s == "validation" else "train", c) for s, c in zip(table["split"], table["label"], strict=True)
    ]


def test_pictures_have_no_labels(trained, command) -> None:
    code, out, err = command("embed", "--from", "a", "--model", NET, "data/test/cat", "data/test/owl/1.png")
    assert code == 0, err
    assert "10 vectors of 64 numbers" in out
    assert list(load_file("features.safetensors")) == ["vectors"]
    with pytest.raises(StudyError, match="a probe needs labels"):
        embed(trained, pictures=["data/test/cat"], model=NET).probe()


def test_what_it_refuses(trained, command) -> None:
    words = ("embed", "--from", "a", "--model", NET)
    for more, said in (
        (("--layer", "33"), "has no module '33': --layer 3?"),
        (("--out", "f.npz"), "f.npz: features are written as .safetensors or .parquet"),
        (("--data", "data", "data/test/cat"), "give --data or pictures, not both"),
        (("data/test/cat", "--probe"), "a probe needs labels"),
    ):
        code, _, err = command(*words, *more)
        assert code == 2
        assert said in err
    assert not Path("features.safetensors").exists()
