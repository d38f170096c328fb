"""`python -m rung`: the command."""

from rung.cli.main import main

main()
