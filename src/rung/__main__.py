"""The entry point of `python -m rung`, which is the command `rung`."""

from rung.cli.main import main

main()
