"""The forward pass that all algorithms share: the policy, and how a batch is split into parts and laid out."""
