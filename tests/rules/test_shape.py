"""Operations that move values: estimates come back in place, and range maps reach through them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import racecar


class Net(nn.Module):
    """conv(2→4) → ReLU → ``move`` → a linear layer on the last dimension."""

    def __init__(self, move: str, features: int) -> None:
        super().__init__()
        self.conv, self.fc, self.move = nn.Conv2d(2, 4, 1), nn.Linear(features, 3), move

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.conv(x))
        match self.move:
            case "flatten":
                h = h.flatten(1)
            case "tokens":
                h = h.flatten(2).transpose(1, 2)
            case "channels last":
                h = h.permute(0, 2, 3, 1)
            case "view":
                h = h.view(h.shape[0], 2, -1)
            case "shuffle":
                h = F.pixel_shuffle(h, 2)
            case "unshuffle":
                h = F.pixel_unshuffle(h, 2)
            case "unsqueeze":
                h = h.unsqueeze(1).squeeze(1)
            case "movedim":
                h = h.movedim(1, -1)
            case "pad":
                h = F.pad(h, (1, 2))
            case "crop":
                h = F.pad(h, (-1, 0))
            case "split":
                a, b = h.split([1, 3], 1)
                h = torch.cat((b, a), 1)
            case "chunk":
                h = torch.cat(tuple(reversed(h.chunk(2, 1))), 1)
            case "unbind":
                h = torch.stack(h.unbind(1), -1)
        return self.fc(h)


# move → (features, the inverse)
MOVES = {
    "flatten": (64, lambda e: e.reshape(2, 4, 4, 4)),
    "tokens": (4, lambda e: e.transpose(1, 2).reshape(2, 4, 4, 4)),
    "channels last": (4, lambda e: e.permute(0, 3, 1, 2)),
    "view": (32, lambda e: e.reshape(2, 4, 4, 4)),
    "shuffle": (8, lambda e: F.pixel_unshuffle(e, 2)),
    "unshuffle": (2, lambda e: F.pixel_shuffle(e, 2)),
    "unsqueeze": (4, lambda e: e),
    "movedim": (4, lambda e: e.permute(0, 3, 1, 2)),
    "pad": (7, lambda e: e[..., 1:5]),
    "crop": (3, lambda e: F.pad(e, (1, 0))),
    "split": (4, lambda e: torch.cat((e[:, 3:], e[:, :3]), 1)),
    "chunk": (4, lambda e: torch.cat((e[:, 2:], e[:, :2]), 1)),
    "unbind": (4, lambda e: e.permute(0, 3, 1, 2)),
}


@pytest.mark.parametrize("move", MOVES)
def test_moves_are_undone(move: str) -> None:
    torch.manual_seed(8)
    features, undo = MOVES[move]
    model = Net(move, features).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    pairs = racecar.Racecar(model, x, layers="all").reconstruct(x)
    fc, conv = model.fc, model.conv
    raw = (model(x) - fc.bias) @ fc.weight
    # the ReLU is reached through the move; splitting ends the reach, as each piece could have another range
    mapped = raw if move in ("split", "chunk", "unbind") else torch.relu(raw)
    torch.testing.assert_close(pairs["fc"][1], mapped)
    expected = F.conv_transpose2d(undo(mapped) - conv.bias.view(-1, 1, 1), conv.weight)
    torch.testing.assert_close(pairs["conv"][1], expected)


class Twice(nn.Module):
    """One value at two places of a cat, and a constant at a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(10, 3)
        self.token = nn.Parameter(torch.randn(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(torch.cat((h, self.token.expand(len(x), 2), h), 1))


def test_a_value_at_two_places_of_a_cat_gets_the_mean_of_both_estimates() -> None:
    torch.manual_seed(8)
    model = Twice().double()
    x = torch.randn(5, 3, dtype=torch.float64)
    pairs = racecar.Racecar(model, x).reconstruct(x)
    raw = (model(x) - model.last.bias) @ model.last.weight
    one, two = torch.tanh(raw[:, :4]), torch.tanh(raw[:, 6:])
    token = model.token.expand(5, 2)  # known: nothing to regenerate
    torch.testing.assert_close(pairs["last"][1], torch.cat((one, token, two), 1))
    hidden = (one + two) / 2
    torch.testing.assert_close(pairs["first"][1], (hidden - model.first.bias) @ model.first.weight)
