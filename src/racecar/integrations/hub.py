"""Trained models in folders and on the Hugging Face hub: plain weights, and a card that says how they were trained.

    FOLDER/model.safetensors     the plain model's state_dict; how it was trained is in the file's metadata as well
    FOLDER/README.md             the model card

Weights are safetensors and nothing is unpickled; every file is written beside its place and renamed. Needs
``huggingface_hub`` and ``safetensors``, of the ``[frameworks]`` extra.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, save_torch_model
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import nn

from racecar.errors import RacecarError
from racecar.module import Racecar

WEIGHTS, CARD = "model.safetensors", "README.md"
_ONE_FILE = 2**62  # bytes: what is written in one file is replaced as a whole

Model = TypeVar("Model", bound=nn.Module)


class HubError(RacecarError):
    """A model cannot be saved, pushed or loaded; the message says which and what to do."""


_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

The weights of a {{ kind }}, trained with racecar training: a second, mirrored pass through the network reuses all
weights backwards and is pulled, layer by layer, towards the activations of the forward pass. The file holds the plain
model: loading it needs no racecar.

## How it was trained

| | |
|---|---|
| data | {{ data }} |
{% if recipe %}| recipe | {{ recipe }} |
{% endif %}| loss | that of the task + Σ λ ½‖L − L'‖² over {{ how.layers | length }} layers |
| compared layers: λ | {% for name, weight in layers.items() %}{{ name }}: {{ "%g" | format(weight) }}\
{% if not loop.last %}, {% endif %}{% endfor %} |
| reduction | {{ how.reduction }} |
| start of the reverse pass | {{ start }} |
| range of the regenerated input | {{ input_range }} |
| batch norm in the reverse pass | {{ how.norm_statistics }} statistics |
| weights of the reverse pass | {{ how.reverse_weights }} |
{% if other %}| other options | {% for option in other %}{{ option }}\
{% if not loop.last %}, {% endif %}{% endfor %} |
{% endif %}| versions | {% for name, number in how.versions.items() %}{{ name }} {{ number }}\
{% if not loop.last %}, {% endif %}{% endfor %} |

{{ table }}
{% if results %}
## Results

| | |
|---|---|
{% for name, value in results.items() %}| {{ name }} | {{ value }} |
{% endfor %}{% endif %}
## Use

```python
from safetensors.torch import load_model

load_model(model, "model.safetensors")  # a {{ word }} of the same shape; or racecar.integrations.hub.load(model, ...)
```
""".replace("\\\n", "")


_ROWS = ("layers", "start", "weight", "reduction", "input_range", "norm_statistics", "decoder")  # of the card's own


def how_trained(rr: Racecar) -> dict[str, Any]:
    """All options of a Racecar as JSON and YAML hold them; layers with their λ and the start as they were resolved."""
    table, options = rr.explain(), rr.options.as_dict()
    untied = options.pop("decoder")
    return options | {
        "layers": {name: float(f"{weight:.7g}") for name, weight in zip(rr.layers, table.lambdas, strict=True)},
        "start": table.start,
        "input_range": options["input_range"] or "as it is",
        "reverse_weights": "of its own (untied decoder)" if untied else "the model's own",
        # torch by its own word: a wheel's metadata may leave out for what it was built (2.14.1, not 2.14.1+cu130).
        "versions": {"racecar-training": _version("racecar-training"), "torch": str(torch.__version__)}
        | {"python": platform.python_version()},
    }


def model_card(
    rr: Racecar,
    *,
    data: str,
    recipe: str = "",
    results: Mapping[str, object] | None = None,
    title: str | None = None,
    **metadata: Any,
) -> ModelCard:
    """The card of a model trained by ``rr``; change it as you like before it is saved.

    Args:
        rr: how the model was trained: layers, λ, reduction, start and versions are read off it.
        data: what it was trained on.
        recipe: optimiser, learning rate, steps, batch size, in words.
        results: what was measured, by name.
        title: of the card; None: the model's class.
        metadata: of the hub's: ``license=``, ``datasets=``, ``pipeline_tag=``, … of ``ModelCardData``.

    Raises:
        HubError: ``rr`` is no Racecar, or nothing is said of the data.
    """
    _check_racecar(rr)
    if not data.strip():
        raise HubError("data= must say what the model was trained on")
    how = how_trained(rr)
    tags = ["racecar-training", *metadata.pop("tags", [])]
    kind = type(rr.model).__name__
    return ModelCard.from_template(
        ModelCardData(library_name="racecar-training", tags=tags, racecar=how, **metadata),
        template_str=_TEMPLATE,
        title=_text(title or f"{kind}, racecar-trained"),
        kind=_code(kind),
        word=re.sub(r"\W+", " ", kind),
        table=_block(str(rr.explain())),
        how=how,
        layers={_code(name): weight for name, weight in how["layers"].items()},
        start=_code(how["start"]),
        input_range=_text(how["input_range"]),
        other=[_code(f"{name}={value}") for name, value in rr.options.changed(*_ROWS).items()],
        **{"data": _text(data), "recipe": _text(recipe)},
        results={_text(k): _text(v) for k, v in (results or {}).items()},
    )


def save(rr: Racecar, folder: str | Path, card: ModelCard) -> Path:
    """Write the plain model's weights and the card; what the folder held under these names is replaced.

    Args:
        rr: whose ``model`` is saved.
        folder: made when it does not exist.
        card: from :func:`model_card`.

    Returns:
        The folder.

    Raises:
        HubError: ``rr`` is no Racecar, its weights are sharded, or the disk refuses; old files are then unchanged.
    """
    _check_racecar(rr)
    if any(hasattr(value, "device_mesh") for value in rr.model.state_dict().values()):
        raise HubError("the weights are sharded among processes: gather them first (rr.unshard() for FSDP2's root)")
    folder = Path(folder)
    metadata = {"racecar": json.dumps(how_trained(rr), ensure_ascii=False)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as place:
            save_torch_model(rr.model, place, max_shard_size=_ONE_FILE, metadata=metadata)
            card.save(Path(place) / CARD)
            shutil.copymode(Path(place) / CARD, Path(place) / WEIGHTS)  # which safetensors makes for one's eyes only
            for name in (WEIGHTS, CARD):  # both are whole before the first takes its place
                with (Path(place) / name).open("rb") as written:
                    os.fsync(written.fileno())
            for name in (WEIGHTS, CARD):
                os.replace(Path(place) / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise HubError(f"cannot write {folder}: {error}. What was there before is unchanged.") from error
    return folder


def push(rr: Racecar, repo_id: str, card: ModelCard, *, private: bool | None = None, token: str | None = None) -> str:
    """Put weights and card on the hub, in one commit; the repository is made when it does not exist.

    Args:
        rr: whose ``model`` is pushed.
        repo_id: ``"name"`` or ``"owner/name"``.
        card: from :func:`model_card`.
        private: whether a new repository is; None: as the account's settings say.
        token: None: that of ``hf auth login``.

    Returns:
        The full name of the repository, for :func:`load`.

    Raises:
        HubError: as :func:`save`; the hub refuses name or token.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = save(rr, place, card)
        try:
            name = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
            api.upload_folder(
                repo_id=name, folder_path=folder, allow_patterns=[WEIGHTS, CARD], commit_message="Racecar training"
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise HubError(f"cannot push to {repo_id!r}: {_first_line(error)}") from error
    return name


def load(model: Model, source: str | Path, *, revision: str | None = None, token: str | None = None) -> Model:
    """Load weights into a model of the same shape.

    Args:
        model: changed in place, on its device; left as it was when something does not fit.
        source: a folder of :func:`save`, or a repository on the hub.
        revision: branch, tag or commit on the hub.
        token: None: that of ``hf auth login``.

    Returns:
        ``model``.

    Raises:
        HubError: there are no such weights, the file is damaged, or it is of another model.
    """
    path = Path(source) / WEIGHTS
    if not Path(source).is_dir():
        try:
            path = Path(huggingface_hub.hf_hub_download(str(source), WEIGHTS, revision=revision, token=token))
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise HubError(
                f"{str(source)!r} is no folder here, and the hub gives no {WEIGHTS} of that name: {_first_line(error)}"
            ) from error
    try:
        _check_fits(model, path)
        load_model(model, path)
    except FileNotFoundError as error:
        raise HubError(f"{path} does not exist") from error
    except (OSError, SafetensorError) as error:
        raise HubError(f"{path} is damaged or no safetensors file: {error}") from error
    return model


def _check_fits(model: nn.Module, path: Path) -> None:
    """Before anything is copied."""
    ours = model.state_dict()
    with safe_open(path, "pt") as file:
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    present = {ours[name].data_ptr() for name in theirs.keys() & ours.keys()}
    # A tensor that the model has under two names is saved once.
    missing = [n for n, t in ours.items() if n not in theirs and (t.data_ptr() not in present or not t.numel())]
    wrong = [
        *(f"{n!r} is missing" for n in missing),
        *(f"{n!r} is not the model's" for n in theirs if n not in ours),
        *(
            f"{n!r} has shape {s}, the model's {tuple(ours[n].shape)}"
            for n, s in theirs.items()
            if n in ours and s != tuple(ours[n].shape)
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise HubError(f"{path} is of another model than this {type(model).__name__}: {', '.join(wrong[:5])}{more}")


def _check_racecar(rr: object) -> None:
    if not isinstance(rr, Racecar):
        raise HubError(
            f"a racecar.Racecar is needed, which knows how the model was trained, not {type(rr).__name__} "
            "(of one wrapped by DDP: its .module)"
        )


# Names come from models and data sets that may be anybody's: what they hold is shown and does nothing.


def _text(value: object) -> str:
    """Text that stays in one cell of a table or one heading, without HTML; links and emphasis are the caller's own."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("&", "&amp;").replace("<", "&lt;")


def _code(name: object) -> str:
    """A name as code within a line or a cell."""
    words = " ".join(str(name).split()).replace("|", "\\|")
    marks = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    space = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{marks}{space}{words}{space}{marks}"


def _block(text: str) -> str:
    """Text as a block of code, fenced by more marks than it holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
