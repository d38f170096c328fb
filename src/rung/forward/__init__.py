"""The one forward pass: a policy, a batch, and how the batch is cut and laid out."""
