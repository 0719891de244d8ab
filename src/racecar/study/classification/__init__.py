"""Image classification, pretrained on task A and reused on task B: what digits, CIFAR and a user's own images share."""
