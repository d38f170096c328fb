"""What answers the turns of a model: tools, environments, and the reading of calls."""
