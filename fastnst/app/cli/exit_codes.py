"""The exit codes of the command that are not 0."""

EXIT_BAD_INPUT = 1
"""Bad input, or a check that failed."""
EXIT_USAGE = 2
"""No command was given, or arguments that are wrong."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, or a signal like it: as a shell has it, 128 and the number of SIGINT."""
