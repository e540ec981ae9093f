"""`python -m latentsync` is the command `latentsync`."""

import runpy

runpy.run_module("latentsync.cli.main", run_name="__main__")
