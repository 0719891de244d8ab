"""The library needs only torch: frameworks come with the file that is for them."""

import json
import subprocess
import sys

import pytest

FRAMEWORKS = {"accelerate", "huggingface_hub", "lightning", "pytorch_lightning", "safetensors", "transformers"}
MODULES: dict[str, set[str]] = {  # what each may bring that those before it have not brought
    "racecar": set(),
    "racecar.integrations": set(),
    "racecar.integrations.lightning": set(),
    "racecar.integrations.hub": {"huggingface_hub", "safetensors"},
}


@pytest.fixture(scope="module")
def brought() -> dict[str, set[str]]:
    """All that is imported after each of them, one after the other in a process of its own."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    found[name] = list(sys.modules)\n"
        "print(json.dumps(found))"
    )
    result = subprocess.run([sys.executable, "-c", code, *MODULES], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return {name: set(modules) for name, modules in json.loads(result.stdout).items()}


@pytest.mark.parametrize("module", MODULES)
def test_what_an_import_brings(brought, module) -> None:
    imported = brought[module]
    assert module in imported
    assert imported & FRAMEWORKS <= MODULES[module]
    assert "racecar.study" not in imported


@pytest.mark.parametrize("module", ["torch._dynamo", "sympy", "torch.distributed.tensor"])
def test_what_only_a_derivation_needs_is_not_loaded_before(brought, module) -> None:
    """Torch's compiler takes as long as all the rest of torch."""
    assert module not in brought["racecar"]
