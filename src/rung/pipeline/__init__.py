"""From a config to a finished run: check the path, then build, train and evaluate each stage and decide its gate."""
