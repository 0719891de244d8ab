"""Racecar training with Accelerate: ``accelerate launch examples/accelerate_loop.py``, on one GPU or many.

What is prepared is the Racecar, so that DDP shares its gradients.
"""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

import digits
import racecar

if __name__ == "__main__":
    steps = digits.arguments().steps
    accelerator = Accelerator()
    model = digits.network()
    rr = racecar.Racecar(model, torch.zeros(2, 1, 8, 8), weight=digits.WEIGHT)  # the added line
    rr.check_finite = accelerator.num_processes == 1  # one process alone must not stop
    # Each process has batches of its own; with Accelerator(split_batches=True) they share every one.
    rr, optimizer, batches = accelerator.prepare(rr, digits.optimizer(model), digits.batches(steps))

    for images, labels in batches:
        output, penalty = rr(images)
        loss = cross_entropy(output, labels) + penalty
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        if accelerator.is_main_process:
            digits.report(loss)
