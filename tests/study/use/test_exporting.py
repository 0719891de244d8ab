"""``racecar export``: what was written answers as the network does, in the programs it is for."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from racecar.study import StudyError, export, train
from racecar.study.use import exporting

from .conftest import NET


def answers(folder: Path, images: np.ndarray, network: torch.nn.Module) -> np.ndarray:
    """By hand: the plain network on normalised pixels."""
    about = json.loads((folder / "model.json").read_text())
    mean, std = (np.array(about["input"][k], np.float32).reshape(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        return network.eval()(torch.from_numpy((images - mean) / std)).numpy()


IMAGES = np.random.default_rng(0).random((5, 3, 8, 8), np.float32)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_torchscript(trained, command) -> None:
    code, out, err = command("export", "--from", "a", "--model", NET, "--format", "torchscript")
    assert code == 0, err
    assert "a/model.pt: answers as the network does" in out
    extra = {"classes": ""}
    opened = torch.jit.load("a/model.pt", _extra_files=extra)
    expected = answers(Path("a"), IMAGES, trained.load(NET))
    np.testing.assert_allclose(opened(torch.from_numpy(IMAGES)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert json.loads(extra["classes"]) == ["cat", "dog", "owl"]
    namespace: dict[str, object] = {"images": torch.from_numpy(IMAGES)}
    exec(out.partition("\n\n")[2], namespace)  # the lines that it prints
    assert namespace["logits"].shape == (5, 3)


def test_onnx(trained, command) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    code, _, err = command("export", "--from", "a", "--model", NET, "--format", "onnx", "--out", "b/net.onnx")
    assert code == 0, err
    session = runtime.InferenceSession("b/net.onnx")
    expected = answers(Path("a"), IMAGES, trained.load(NET))
    np.testing.assert_allclose(session.run(None, {"images": IMAGES})[0], expected, rtol=1e-4, atol=1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == ["cat", "dog", "owl"]
    assert [p.name for p in Path("b").iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_opens_the_folder(data, command, channels) -> None:
    timm = pytest.importorskip("timm")
    train("timm:test_resnet", "data", out="a", channels=channels, size=32)
    code, out, err = command("export", "--from", "a", "--format", "timm")
    assert code == 0, err
    namespace: dict = {}
    exec(out.partition("\n\n")[2], namespace)
    model, transform = namespace["model"], namespace["transform"]
    weights = load_file("a/model.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert tuple(timm.data.resolve_data_config({}, model=model)["input_size"]) == (channels, 32, 32)
    picture = Image.open("data/test/cat/0.png").convert("L" if channels == 1 else "RGB").resize((32, 32))
    pixels = np.array(picture, np.float32).reshape(32, 32, channels).transpose(2, 0, 1)[None] / 255
    with torch.no_grad():
        seen = model(transform(picture)[None]).numpy()
    plain = timm.create_model("test_resnet", num_classes=3, in_chans=channels)
    plain.load_state_dict(weights)
    np.testing.assert_allclose(seen, answers(Path("a"), pixels, plain), rtol=1e-3, atol=1e-4)
    code, _, err = command("export", "--from", "a", "--format", "timm")
    assert code == 2
    assert "a/timm exists already" in err


def test_what_answers_otherwise_is_not_kept(trained, monkeypatch) -> None:
    monkeypatch.setitem(exporting._ANSWERS, "torchscript", lambda network, path, images: torch.ones(3, 3))
    with pytest.raises(StudyError, match="answers otherwise than in torch"):
        export(trained, "torchscript", model=NET)
    assert not list(Path("a").glob("*model.pt*"))


def test_what_cannot_be_exported(trained, command, monkeypatch) -> None:
    for words, said in (
        (("--format", "timm", "--model", NET), "is for timm's models alone"),
        (("--format", "onnx"), "repeat its name, --model small_nets:net"),
    ):
        code, _, err = command("export", "--from", "a", *words)
        assert code == 2
        assert said in err
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    extra = r'onnx and onnxscript and onnxruntime: pip install "racecar-training\[export\]"'
    with pytest.raises(StudyError, match=extra):
        export(trained, "onnx", model=NET)
    with pytest.raises(ValueError, match="there are onnx, torchscript, timm"):
        export(trained, "tflite", model=NET)  # type: ignore[arg-type]
