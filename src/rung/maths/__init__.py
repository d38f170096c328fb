"""Pure functions on tensors, one file a subject; they import torch and nothing else."""
