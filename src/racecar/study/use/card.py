"""A training's card for the Hugging Face hub: :mod:`racecar.integrations.hub` writes it, a run's files fill it."""

from __future__ import annotations

import torch

import racecar_command
from racecar import Racecar
from racecar.study.core.errors import StudyError
from racecar.study.use.network import Network


def card_of(network: Network) -> tuple[Racecar, object]:
    """The network with its reverse pass, and the card, an ``huggingface_hub.ModelCard``.

    Raises:
        StudyError: it was trained plainly, of which racecar's card has nothing to say, or the hub's library is missing.
    """
    if network.about.get("racecar") is None:
        raise StudyError(
            f"{network.folder} was trained plainly, and racecar's card says how the reverse pass was used: push its "
            "model.safetensors and model.json by `hf upload`"
        )
    try:
        from racecar.integrations import hub
    except ImportError as error:
        missing = racecar_command.remedy("huggingface_hub", "jinja2")
        raise StudyError(f"a card needs {missing or error}") from error
    about = network.about
    channels, height, width = network.shape
    rr, _ = network.racecar(torch.zeros(2, channels, height, width, dtype=torch.uint8))
    kept = about.get("data")
    said = kept.get("said") if isinstance(kept, dict) else None
    some = f"{about.get('train_images', '?')} images of {len(network.classes)} classes"
    recipe = about.get("recipe") or {}
    words = ("epochs", "optimiser", "learning_rate", "batch_size", "schedule", "augmentation")
    results = {"validation accuracy": f"{about['accuracy']:.4f} of {about.get('validation_images', '?')} images"}
    return rr, hub.model_card(
        rr,
        data=str(said or some),
        recipe=", ".join(f"{w} {recipe[w]}" for w in words if w in recipe),
        results=results,
        title=f"{about['model']}, racecar-trained",
        pipeline_tag="image-classification",
    )


def push(network: Network, repository: str) -> str:
    """Put weights and card on the hub; returns the repository's full name.

    Raises:
        StudyError: see :func:`card_of`; HubError: the hub refuses.
    """
    rr, card = card_of(network)
    from racecar.integrations import hub

    return hub.push(rr, repository, card)  # type: ignore[arg-type]
