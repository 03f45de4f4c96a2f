"""The scripts that draw the example pictures of `fastnst.examples`: `python -m bench.examples.draw`."""
