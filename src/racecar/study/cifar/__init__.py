"""Natural images (Section 5.2, A.3): CIFAR-10 as task A, CIFAR-100 as task B."""
