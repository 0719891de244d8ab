"""Where and how a study was run: hardware, versions, revision, the command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def environment() -> dict[str, str]:
    """Hardware and versions, for the report."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "processor": _processor()}
    found["threads"] = str(torch.get_num_threads())
    found["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    # By its own word: a wheel's metadata may leave out for what it was built (2.14.1, not 2.14.1+cu130).
    found["torch"] = str(torch.__version__)
    for package in ("numpy", "accelerate", "datasets", "racecar-training"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["revision"] = revision()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def revision() -> str:
    """The code's git revision, with ``+`` if files were changed."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if changed else "")


def command_line() -> str:
    """The command of this process, so that it can be pasted."""
    return pasted(["racecar", *sys.argv[1:]])


def pasted(words: Iterable[str]) -> str:
    """Words as a command line: those that a shell would take apart have quotes."""
    return " ".join(shlex.quote(word) if set(word) & set(" {}[]\"'") else word for word in words)
