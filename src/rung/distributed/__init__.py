"""Several processes: collectives, failures, sharded weights, and the launcher."""
