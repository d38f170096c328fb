"""`python -m rung`: the command."""

from rung.cli import main

main()
