"""One thread per test process: the tests run side by side, and threads that wait for each other cost most."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging

import torch

torch.set_num_threads(1)
# torch's tracer logs thousands of empty lines, which pytest would print beside every failure.
logging.getLogger("torch.__trace").disabled = True
