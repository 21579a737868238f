"""`numerate status`, `doctor` and `clean`: contents of a workspace, faults, and the commands that repair them."""
