"""Smoke (Section 5.3): a super-resolution GAN, then auto-encoders of simulated and of real smoke."""
