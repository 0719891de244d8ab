"""Racecar training in a loop of one's own: ``python examples/plain.py --steps 100``."""

import torch
from torch.nn.functional import cross_entropy

import digits
import racecar

if __name__ == "__main__":
    steps = digits.arguments().steps
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model = digits.network().to(device)
    optimizer = digits.optimizer(model)
    example = torch.zeros(2, 1, 8, 8, device=device)
    rr = racecar.Racecar(model, example, weight=digits.WEIGHT)  # the added line

    for images, labels in digits.batches(steps):
        output, penalty = rr(images.to(device))
        loss = cross_entropy(output, labels.to(device)) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        digits.report(loss)
