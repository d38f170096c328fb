"""The entry point of `python -m rung`, which is the command `rung`."""

import sys

# `-m` puts the working folder first, where a `yaml.py` would be imported in place of the installed package.
if not sys.flags.safe_path:
    del sys.path[0]

from rung.cli.main import entry

entry()
