"""Loss of plasticity: one network trained on task after task, plainly, with the racecar loss, and with its controls."""
