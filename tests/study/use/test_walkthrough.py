"""What docs/images-walkthrough.md tells to type, typed in its order on small images."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from racecar.study.core.files import read_json

from .conftest import NET

PAGE = (Path(__file__).parents[3] / "docs" / "images-walkthrough.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:] for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
IN_PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
HAS = {name: importlib.util.find_spec(name) is not None for name in ("timm", "onnxscript", "onnxruntime")}


@pytest.fixture
def photos(tmp_path: Path, _place: None) -> None:
    draw = np.random.default_rng(0)
    for number, (kind, name) in enumerate(
        {"bird": "cock-7", "dog": "Chihuahua-151", "other-animal": "tench-0", "thing": "abacus-398"}.items()
    ):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = draw.integers(0, 100, (40, 30, 3), np.uint8)
            pixels[:, :, number % 3] += 100
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / (f"{name}.jpg" if not i else f"{i}.jpg"))


def typed(words: list[str], model: str) -> list[str]:
    """With a smaller network, smaller images, one epoch; code of the tests' own is named."""
    for option, value in (("--model", model), ("--size", "16"), ("--epochs", "1")):
        if option in words:
            words = [*words[: words.index(option) + 1], value, *words[words.index(option) + 2 :]]
    return words if "--model" in words or model.startswith("timm:") else [words[0], "--model", model, *words[1:]]


def test_every_command(photos, command) -> None:
    model = "timm:test_resnet" if HAS["timm"] else NET
    assert [words[0] for words in COMMANDS] == [
        "train", "evaluate", "predict", "embed", "regenerate", "report", "export", "export",
    ]  # fmt: skip
    for words in COMMANDS:
        if (words[-1] == "onnx" and not (HAS["onnxscript"] and HAS["onnxruntime"])) or (
            "timm" in words and not HAS["timm"]
        ):
            continue
        code, out, err = command(*typed(words, model))
        assert code == 0, (words, err)
        if words[0] == "embed":
            assert "20 neighbours: " in out
    for name in ("evaluation.json", "evaluation.png", "answers.csv", "features.parquet", "regenerated.png",
                 "errors.csv", "runs/photos/report.html"):  # fmt: skip
        assert Path(name).stat().st_size > 0
    assert len(Path("answers.csv").read_text().splitlines()) == 25
    assert read_json(Path("evaluation.json"))["of"] == "held out of the training: a tenth, stratified"
    if HAS["timm"]:
        exec(compile(IN_PYTHON[0], "timm", "exec"), {})


def test_in_python(photos) -> None:
    pytest.importorskip("timm")
    small = (
        IN_PYTHON[1].replace("resnet10t", "test_resnet").replace("size=48", "size=16").replace("epochs=10", "epochs=1")
    )
    exec(compile(small, "walkthrough", "exec"), {})
