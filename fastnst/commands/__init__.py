"""What each subcommand of `fastnst` does; their arguments are in `fastnst.cli`."""
