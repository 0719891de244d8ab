"""One thread per test process, as tests run side by side and threads that wait for each other cost most.

``OMP_NUM_THREADS=2 make test`` runs them with two; processes that tests start follow.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging

import pytest
import torch

THREADS = torch.get_num_threads()
# torch's tracer logs thousands of empty lines, which pytest would print beside every failure.
logging.getLogger("torch.__trace").disabled = True


@pytest.fixture(autouse=True)
def _threads() -> None:
    """Whatever the test before has set."""
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """What was imported stays: a full collection, which Accelerate asks for after every training, passes it over."""
    gc.collect()
    gc.freeze()
