"""The command `numerate`: commands, options, help and terminal output."""
