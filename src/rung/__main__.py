"""`python -m rung`: runs the command line."""

from rung.cli.main import main

main()
