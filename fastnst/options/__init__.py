"""The options of a run: every option once, how its value is read, masks and presets.

They import `fastnst.errors`, and of `image` and `network` what an option names; no command line and no page.
"""
