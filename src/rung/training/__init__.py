"""The training loop and its state: optimizers, early stopping, trackers, checkpoints."""
