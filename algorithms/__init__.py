"""One file, one algorithm, one page; importable as `rung.algorithms`."""

if __name__ != "rung.algorithms":
    raise ImportError("import `rung.algorithms`: this folder is part of the package rung, not a package of its own")
