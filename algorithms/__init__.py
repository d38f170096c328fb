"""One file per algorithm, each with a page in the docs; importable as `rung.algorithms`."""

if __name__ != "rung.algorithms":
    raise ImportError("import `rung.algorithms`: this folder is part of the package rung, not a package of its own")
