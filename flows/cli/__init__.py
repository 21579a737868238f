"""The command `numerate`: options, help, and what reaches the terminal."""
