"""VGG19 on ImageNet (Sections 5.4 and A.5), and the same question on a small machine."""
