"""Plain functions that judge a completion; importable as `rung.rewards`."""

if __name__ != "rung.rewards":
    raise ImportError("import `rung.rewards`: this folder is part of the package rung, not a package of its own")
