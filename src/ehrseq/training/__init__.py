"""Training with Lightning, and inference without it."""
