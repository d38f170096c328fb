"""The training loop, optimizers, early stopping, trackers and checkpoints."""
