"""Pure functions on tensors, one file per subject; they import only torch."""
