"""The commands, as Python functions and on the command line."""
