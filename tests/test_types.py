"""What a type checker tells those who use the library: mypy on a user's file, strictly."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USED = """
import torch
from torch import Tensor, nn

import racecar

x, labels = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
rr = racecar.Racecar(nn.Linear(4, 2), x)

output, penalty = rr(x)
reveal_type(output)  # Any
reveal_type(penalty)  # Tensor
loss = nn.functional.cross_entropy(output, labels) + penalty
loss.backward()
penalty.backwards()  # error: attr-defined
output, penalty, more = rr(x)  # error: misc

compiled = torch.compile(rr)
reveal_type(compiled(x)[1])  # Tensor

rr.eval()
answer: Tensor = rr(x)
nn.functional.cross_entropy(rr(x), labels)
reveal_type(rr(x).argmax(1))  # Any

reveal_type(rr.distances(x)[1])  # Tensor
for name, (there, back) in rr.reconstruct(x).items():
    reveal_type(there - back)  # Tensor
ensemble = racecar.Ensemble([nn.Linear(4, 2), nn.Linear(4, 2)], x, weights=[0.1, 0.1])
reveal_type(ensemble(x.expand(2, 8, 4))[1])  # Tensor
found = racecar.balance(rr, loss, penalty, ratio=0.3)
reveal_type(found.ratio)  # float
"""


@pytest.mark.slow
def test_a_call_is_typed_as_far_as_its_mode_allows(tmp_path) -> None:
    (tmp_path / "used.py").write_text(USED)
    # With the project's own settings and cache, as `make lint` has just filled it.
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "used.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT / "src")}
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    told: dict[int, list[str]] = {}
    for line, words in re.findall(r"used\.py:(\d+): (.*)", said):
        told.setdefault(int(line), []).append(words)
    asked = {i: m[1] for i, line in enumerate(USED.splitlines(), 1) if (m := re.search(r"# (.*)$", line))}
    assert sorted(told) == sorted(asked), said
    for line, (words,) in told.items():
        kind, _, what = asked[line].rpartition(" ")
        if kind == "error:":
            assert words.startswith("error:"), said
            assert words.endswith(f"[{what}]"), said
        else:
            assert words.split('"')[1].rpartition(".")[2] == what, said
