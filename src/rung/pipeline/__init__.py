"""From a config to a finished run: check, build a stage, train it, evaluate it, decide."""
