"""What docs/training.md tells to type can be typed."""

import re
import shlex
from pathlib import Path

from racecar.study.classification.extras import Extras
from racecar.study.commands import train, transfer
from racecar.study.core.options import chosen

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_option_exists() -> None:
    known = {t for made in (train, transfer) for a in made.parser(())._actions for t in a.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert len(named) > 20
    assert named <= known, named - known


def test_every_extra_is_explained() -> None:
    for name in Extras.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in PAGE


def test_the_command_is_read() -> None:
    command = re.search(r"```bash\nracecar (.*?)```", PAGE, re.DOTALL)
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", " "))
    options = train.parser(()).parse_args(words[1:])
    assert Extras(**chosen(options, Extras)).layer_decay == 0.75
    assert options.pretrained == "library"
    assert (options.racecar, options.freeze, options.log) == ("auto", ["layer1*"], ["tensorboard", "csv"])
