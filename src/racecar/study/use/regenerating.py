"""``racecar regenerate``: what the reverse pass makes of pictures, layer by layer, and how far it is from them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from racecar.analysis import pair_errors
from racecar.study.core.errors import StudyError
from racecar.study.pretrain.source import Source
from racecar.study.use.labelled import labelled
from racecar.study.use.network import Network
from racecar.study.use.pictures import read_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = 96  # images of a data set that pictures are seen among
_AT_ONCE = 32  # pictures


@dataclass(frozen=True)
class Regenerated:
    """What :func:`racecar.study.regenerate` has found.

    Attributes:
        names: of the pictures.
        words: how the reverse pass was trained, and what the pictures were seen among.
        pairs: by layer, of all pictures, (L_m, L'_m): the layer's input in the forward and in the reverse pass, the
            first one being the picture and its regeneration, in the unit that the network sees. NaN: unknown.
        errors: [N, layers], ½(L_m − L'_m)² averaged over what is known, as in the penalty.
        usual: [M, layers], the same of the images that they were seen among; None without any.
        mean, std: [C], from the network's unit back to pixels between 0 and 1.
    """

    names: tuple[str, ...]
    words: str
    pairs: dict[str, tuple[Tensor, Tensor]]
    errors: Tensor
    usual: Tensor | None
    mean: Tensor
    std: Tensor

    @property
    def layers(self) -> tuple[str, ...]:
        """Their names, from the input on."""
        return tuple(self.pairs)

    def pictures(self) -> tuple[Tensor, Tensor]:
        """The pictures and what is made of them, [N, C, H, W], pixels between 0 and 1, the latter not clipped."""
        scale, shift = self.std.view(1, -1, 1, 1), self.mean.view(1, -1, 1, 1)
        given, made = next(iter(self.pairs.values()))
        return given * scale + shift, made * scale + shift

    def above(self) -> Tensor | None:
        """[N], the share of the images that the pictures were seen among whose input is regenerated better."""
        if self.usual is None:
            return None
        return (self.usual[None, :, 0] < self.errors[:, None, 0]).double().mean(1)

    def csv(self) -> str:
        """A line per picture: name, error of the input and of every layer, and how unusual the first is."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        above = self.above()
        unusual = ["regenerated_better"] if above is not None else []
        writer.writerow(["picture", *(f"error_{layer}" for layer in self.layers), *unusual])
        for i, name in enumerate(self.names):
            more = [f"{float(above[i]):.3f}"] if above is not None else []
            writer.writerow([name, *(f"{float(e):.6g}" for e in self.errors[i]), *more])
        return text.getvalue()

    def figure(self) -> Figure:
        """A row per picture: itself, its regeneration, then of other layers L_m and L'_m in the same colours."""
        from racecar.study.use.figures import regenerated

        return regenerated(self)


def regenerate(
    run: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    beside: str | os.PathLike[str] | Source | None = None,
    model: str | None = None,
    skip_bad: bool = False,
) -> Regenerated:
    """Run a network and its reverse pass over pictures.

    Batch norm in the reverse pass takes the statistics of a batch: of such a network a picture's regeneration depends
    on what it is seen among. ``beside`` gives it company that is the same every time.

    Args:
        run: the folder of a training.
        pictures: files, and folders of which all pictures count.
        beside: a data set of the run's classes, of which 96 validation images are seen with the pictures.
        model: the run's ``module:NAME``, to say that this code may be run; timm and torchvision need none.
        skip_bad: leave out what does not decode, instead of an error.

    Raises:
        StudyError: the run or a picture is not as it must be; RacecarError: the network has no palindrome.
    """
    network = Network.open(run, model)
    paths = [pictures] if isinstance(pictures, str | os.PathLike) else pictures
    pixels, names = read_pictures(network, paths, skip_bad)
    company = pixels[:0]
    if beside is not None:
        there = labelled(network, beside).pixels
        company = there[torch.linspace(0, len(there) - 1, min(BESIDE, len(there))).round().long()]
    elif len(pixels) == 1:
        # A palindrome is derived for any number of images from two on.
        company = pixels
    among = f"{len(company)} images of {Source.of(beside).data}" if beside is not None else "one another"
    return of_pixels(network, pixels, names, company, among, beside is not None)


def of_pixels(
    network: Network, pixels: Tensor, names: tuple[str, ...], company: Tensor, among: str, compare: bool = True
) -> Regenerated:
    """The same of pictures that are decoded.

    Args:
        network: see there.
        pixels: [N, C, H, W], uint8.
        names: of the pictures.
        company: [M, C, H, W], uint8, seen with them.
        among: words for the company.
        compare: whether its errors are of interest.

    Raises:
        StudyError: errors that are no numbers; RacecarError: the network has no palindrome.
    """
    rr, trained = network.racecar(torch.cat([pixels, company])[:2])
    found: list[dict[str, tuple[Tensor, Tensor]]] = []
    usual = None
    for part in pixels.split(_AT_ONCE):
        with torch.no_grad():
            pairs = rr.reconstruct(network.seen(torch.cat([part, company])))
        both = {k: (a.float().cpu(), b.float().cpu()) for k, (a, b) in pairs.items()}
        found.append({k: (a[: len(part)], b[: len(part)]) for k, (a, b) in both.items()})
        if compare and usual is None:
            usual = pair_errors({k: (a[len(part) :], b[len(part) :]) for k, (a, b) in both.items()})
    whole = {k: (torch.cat([f[k][0] for f in found]), torch.cat([f[k][1] for f in found])) for k in found[0]}
    errors = pair_errors(whole)
    if errors.isnan().any():
        raise StudyError(f"{network.folder}: its reverse pass gives no number: its training has diverged")
    normalisation = network.normalisation
    mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
    return Regenerated(names, f"{trained}; seen among {among}", whole, errors, usual, mean, std)
