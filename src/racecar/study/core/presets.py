"""A command's presets: YAML files with the defaults of its options, over which configuration files and options win."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace


class PresetParser(ArgumentParser):
    """A parser whose defaults stand in one of several YAML files, which its own options choose.

    Args:
        presets: path of the file that options choose, from the values of ``chosen_by``; None: no presets.
        chosen_by: names of the options that choose it.
        arguments: of :class:`jsonargparse.ArgumentParser`.
    """

    def __init__(
        self,
        *arguments: Any,
        presets: Callable[[Any], Path] | None = None,
        chosen_by: Sequence[str] = ("preset",),
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._presets, self._chosen_by = presets, chosen_by

    def parse_args(self, args: Sequence[str] | None = None, *arguments: Any, **more: Any) -> Namespace:  # type: ignore[override]
        """Options, with what they leave out from a configuration file, else the preset, else the parser."""
        if self._presets is None:
            return super().parse_args(args, *arguments, **more)
        # Looked up before the others, so that --help shows the preset's values.
        path = self._presets(given(args, {name: self.get_default(name) for name in self._chosen_by}))
        while True:
            self.default_config_files = [glob.escape(str(path))]
            options = super().parse_args(args, *arguments, **more)
            if (chosen := self._presets(options)) == path:
                return options
            path = chosen  # a configuration file, or an abbreviation, says so


def given(args: Sequence[str] | None, defaults: dict[str, Any]) -> argparse.Namespace:
    """What a command line says of some options, whatever else stands there.

    Args:
        args: the command line, without the command.
        defaults: of the options wanted, by name; an option without its value keeps it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default)
    try:
        return parser.parse_known_args(args)[0]
    except argparse.ArgumentError:
        return argparse.Namespace(**defaults)
