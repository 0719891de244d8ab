"""What `pip install` brings: wheel and sdist are built once, and the wheel alone, beside torch, runs the README."""

import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import racecar

ROOT = Path(__file__).parents[1]
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
ALONE = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def run(*words: object, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, words)], cwd=folder, env=ALONE, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def tracked() -> list[str]:
    """The repository's files, or those of the sdist that this is run from."""
    if (ROOT / ".git").exists():
        return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    (listing,) = (ROOT / "src").glob("*.egg-info/SOURCES.txt")
    return [name for name in listing.read_text().split() if ".egg-info" not in name and name != "setup.cfg"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(wheel, sdist), the wheel made from the sdist."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, folder=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def alone(built, tmp_path_factory) -> Path:
    """The bin/ of an environment with the wheel, torch and what torch needs, linked from here, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, symlinks=True)
    bin = folder / "bin"
    packages = Path(
        run(
            bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder
        ).stdout.strip()
    )
    for entry in needed("torch"):
        (packages / entry.name).symlink_to(entry)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        bin / "python",
        "install",
        "--no-index",
        "--no-deps",
        built[0],
        folder=folder,
    )
    return bin


def needed(name: str, seen: set[str] | None = None) -> set[Path]:
    """The folders and files of an installed distribution and of those that it needs."""
    seen = {name} if seen is None else seen
    home = Path(sysconfig.get_path("purelib"))
    distribution = importlib.metadata.distribution(name)
    found = {home / file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for line in distribution.requires or ():
        wanted = Requirement(line)
        if wanted.name not in seen and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            seen.add(wanted.name)
            found |= needed(wanted.name, seen)
    return found


def test_the_workflow_tries_what_is_promised_and_all_say_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    matrix = jobs["library"]["strategy"]["matrix"]
    pythons = {line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert set(matrix["python"]) == pythons
    lowest = re.search(r"^LOWEST := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert matrix["torch"] == [f"torch=={lowest}", "torch"]
    assert Requirement(project["dependencies"][0]).specifier.contains(lowest)
    targets = re.findall(r"^([\w-]+)(?=:)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [step["run"].split()[1] for job in jobs.values() for step in job["steps"] if "make" in step.get("run", "")]
    assert [t for t in asked if t not in targets and not t.startswith(".venv/")] == []
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == racecar.__version__
    newest = re.search(r"^## \[(\d.*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (racecar.__version__, str(citation["date-released"]))


def test_the_indexes_take_both(built) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built, folder=built[0].parent)


def test_the_wheel_is_the_package_and_the_sdist_the_repository(built) -> None:
    files = {name for name in tracked() if (ROOT / name).exists()}
    wheel = {name for name in zipfile.ZipFile(built[0]).namelist() if ".dist-info/" not in name}
    assert wheel == {name.removeprefix("src/") for name in files if name.startswith("src/")}
    with tarfile.open(built[1]) as archive:
        sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert files <= sdist
    assert all(".egg-info/" in name or name in ("PKG-INFO", "setup.cfg") for name in sdist - files)


def test_the_metadata_say_the_version_and_the_readme_without_links_into_the_repository(built) -> None:
    archive = zipfile.ZipFile(built[0])
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_string(archive.read(name).decode())
    assert metadata["Version"] == racecar.__version__
    assert metadata["License-Expression"] == "MIT"
    shown = metadata.get_payload()
    assert re.findall(r"```python\n(.*?)```", shown, re.DOTALL) == README
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", shown, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)]*)\)", prose) + re.findall(r"\b(?:src|href)=\"([^\"]*)", prose)
    assert [target for target in targets if not target.startswith(("https://", "mailto:"))] == []


def test_the_wheel_with_torch_alone_runs_the_readme(alone, tmp_path) -> None:
    code = (
        "import json, sys, importlib.util as u\n"
        "assert not [n for n in ('numpy', 'jsonargparse', 'accelerate') if u.find_spec(n)], 'more than torch'\n"
        "import racecar; print(racecar.__file__)\n"
        "for i, code in enumerate(json.loads(sys.argv[1])):\n"
        "    exec(compile(code, f'README.md, example {i + 1}', 'exec'), {'__name__': 'readme'})\n"
    )
    said = run(alone / "python", "-c", code, json.dumps(README), folder=tmp_path).stdout
    assert said.splitlines()[0].startswith(str(alone.parent))
    assert README


def test_the_command_of_the_wheel_says_which_extra_is_missing(alone, tmp_path) -> None:
    version = run(alone / "racecar", "--version", folder=tmp_path).stdout
    assert version.startswith(f"racecar {racecar.__version__}, torch ")
    said = run(alone / "racecar", "train", "--data", "x", folder=tmp_path, code=2)
    assert said.stderr.startswith("racecar: `racecar train` needs accelerate and ")
    assert said.stderr.endswith(': pip install "racecar-training[study]"\n')
    assert said.stderr.count("\n") == 1
    said = run(alone / "python", "-m", "racecar.study.cli", "train", folder=tmp_path, code=2)
    assert said.stderr.splitlines()[-1].startswith("racecar: this needs ")
    assert "Traceback" not in said.stderr
