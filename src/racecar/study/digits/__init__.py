"""Digit classification (Section 5.1, A.2): MNIST as task A, motion-blurred n-MNIST as task B."""
