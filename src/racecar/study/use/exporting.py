"""``racecar export``: a trained classifier for programs that know nothing of racecar, opened again and compared.

    onnx           one file; input: pixels between 0 and 1, [N, C, H, W], any N; output: logits. Read by onnxruntime
    torchscript    one file, the same input and output, for torch.jit.load
    timm           a folder for timm.create_model("local-dir:FOLDER", pretrained=True), normalised by timm's transforms

Both files normalise by themselves, and hold the classes' names.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

import racecar_command
from racecar.study.core.errors import StudyError
from racecar.study.core.files import write_atomically, write_json, write_tensors
from racecar.study.pretrain import checkpoint
from racecar.study.use.network import Network

Format = Literal["onnx", "torchscript", "timm"]
_SUFFIX = {"onnx": ".onnx", "torchscript": ".pt", "timm": ""}
_SAME = 1e-3  # of the largest logit: kernels differ in the last digits, and deep networks add them up


@dataclass(frozen=True)
class Exported:
    """What :func:`racecar.study.export` has written.

    Attributes:
        path: the file or folder.
        format: of it.
        difference: the largest one between its logits and the network's, over the largest logit.
        use: lines of Python that open it.
    """

    path: Path
    format: Format
    difference: float
    use: str


class Whole(nn.Module):
    """A classifier that normalises by itself: pixels between 0 and 1 to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.model
        normalisation = network.normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] → [N, classes]."""
        return self.model((images - self.mean) / self.std)  # type: ignore[no-any-return]


def export(
    run: str | os.PathLike[str],
    format: Format,
    out: str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
) -> Exported:
    """Write a trained classifier in another format, open it again and compare.

    Args:
        run: the folder of a training.
        format: see the module.
        out: file or folder; None: beside the run's model, named by the format.
        model: the run's ``module:NAME``, to say that this code may be run; timm and torchvision need none.

    Raises:
        StudyError: the run is not as it must be, the format cannot hold it, or what was written answers otherwise:
            then it is not kept.
    """
    if format not in get_args(Format):
        raise ValueError(f"no format {format!r}; there are {', '.join(get_args(Format))}")
    network = Network.open(run, model)
    network.model.cpu()
    name = "timm" if format == "timm" else f"model{_SUFFIX[format]}"
    path = Path(out) if out is not None else network.folder / name
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, *network.shape, generator=generator)
    whole = Whole(network).eval()
    with torch.no_grad():
        expected = whole(images)
    write, use = _WRITERS[format]
    found: list[float] = []

    def checked(place: Path) -> None:
        write(network, whole, images, place)
        answers = _ANSWERS[format](network, place, images)
        found.append(_difference(answers, expected, network, format))

    if format == "timm":
        _whole_folder(path, checked)
    else:
        write_atomically(path, checked)
    return Exported(path, format, found[0], use.format(path=path.as_posix()))


def _difference(answers: Tensor, expected: Tensor, network: Network, format: str) -> float:
    found = float((answers - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not found <= _SAME:
        raise StudyError(
            f"{network.about['model']} as {format} answers otherwise than in torch (by {found:.1e} of the largest "
            "logit): it is not kept"
        )
    return found


def _whole_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is there with all its files or not at all; what is there already is not replaced."""
    if path.exists():
        raise StudyError(f"{path} exists already: choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        fill(place)
        place.chmod(0o755)
        place.replace(path)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _needs(format: str, *packages: str) -> None:
    if missing := racecar_command.remedy(*packages):
        raise StudyError(f"--format {format} needs {missing}")


# --- onnx -------------------------------------------------------------------------------------------------------------


def _write_onnx(network: Network, whole: Whole, images: Tensor, path: Path) -> None:
    _needs("onnx", "onnx", "onnxscript", "onnxruntime")
    import onnx

    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter, about its own parts
            program = torch.onnx.export(
                whole,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    except Exception as error:  # an exporter fails in many ways
        raise StudyError(f"{network.about['model']} has no ONNX form: {_line(error)}") from error
    assert program is not None
    content = program.model_proto
    for key, value in _description(network).items():
        content.metadata_props.add(key=key, value=value)
    try:
        onnx.save(content, path)
    except ValueError as error:  # more than protobuf holds
        raise StudyError(f"{network.about['model']} is too large for one ONNX file: {_line(error)}") from error


def _onnx_answers(network: Network, path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # One by one as well: the number of images must be free.
    first = session.run(None, {"images": images[:1].numpy()})[0]
    rest = session.run(None, {"images": images[1:].numpy()})[0]
    return torch.cat([torch.from_numpy(first), torch.from_numpy(rest)])


# --- torchscript ------------------------------------------------------------------------------------------------------


def _write_torchscript(network: Network, whole: Whole, images: Tensor, path: Path) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # it is deprecated, and asked for; what it traces is compared below
            traced = torch.jit.trace(whole, images)
            torch.jit.save(traced, str(path), _extra_files=_description(network))
    except Exception as error:
        raise StudyError(f"{network.about['model']} has no TorchScript form: {_line(error)}") from error


def _torchscript_answers(network: Network, path: Path, images: Tensor) -> Tensor:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        opened = torch.jit.load(str(path))
        return torch.cat([opened(images[:1]), opened(images[1:])])


def _description(network: Network) -> dict[str, str]:
    """What whoever finds the file alone has to know."""
    channels, height, width = network.shape
    return {
        "classes": json.dumps(list(network.classes), ensure_ascii=False),
        "input": f"float32 [N, {channels}, {height}, {width}], pixels between 0 and 1; it is normalised inside",
        "output": "logits [N, classes]",
        "model": str(network.about["model"]),
    }


# --- timm -------------------------------------------------------------------------------------------------------------


def _write_timm(network: Network, whole: Whole, images: Tensor, path: Path) -> None:
    model, about = network.model, network.about
    if checkpoint.library(about["model"]) != "timm":
        raise StudyError(f"{network.folder} holds {about['model']}, and --format timm is for timm's models alone")
    shape, normalisation = network.shape, network.normalisation
    own = getattr(model, "pretrained_cfg", {})
    options = {k: v for k, v in about["options"].items() if k != "num_classes"}
    config = {
        "architecture": about["model"].partition(":")[2].partition(".")[0],
        "num_classes": len(network.classes),
        "num_features": int(getattr(model, "num_features", 0)),
        "label_names": list(network.classes),
        "model_args": options,
        "pretrained_cfg": {
            "tag": "racecar",
            "custom_load": False,
            "input_size": list(shape),
            "fixed_input_size": bool(own.get("fixed_input_size", False)),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
            "num_classes": len(network.classes),
            "pool_size": None,
            "first_conv": own.get("first_conv"),
            "classifier": own.get("classifier"),
        },
    }
    write_tensors(path / "model.safetensors", model.state_dict())
    write_json(path / "config.json", config)


def _timm_answers(network: Network, path: Path, images: Tensor) -> Tensor:
    import timm

    opened = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=opened)
    mean, std = (torch.tensor(config[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        return opened((images - mean) / std)  # type: ignore[no-any-return]


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_ANSWERS: dict[str, Callable[[Network, Path, Tensor], Tensor]] = {
    "onnx": _onnx_answers,
    "torchscript": _torchscript_answers,
    "timm": _timm_answers,
}
_WRITERS: dict[str, tuple[Callable[[Network, Whole, Tensor, Path], None], str]] = {
    "onnx": (
        _write_onnx,
        'import onnxruntime\nsession = onnxruntime.InferenceSession("{path}")\n'
        '(logits,) = session.run(None, {{"images": images}})  # float32 [N, C, H, W], pixels between 0 and 1',
    ),
    "torchscript": (
        _write_torchscript,
        'import torch\nmodel = torch.jit.load("{path}")\n'
        "logits = model(images)  # [N, C, H, W], pixels between 0 and 1",
    ),
    "timm": (
        _write_timm,
        'import timm\nmodel = timm.create_model("local-dir:{path}", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=model))",
    ),
}
