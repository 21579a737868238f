"""`numerate status`, `doctor` and `clean`: what is there, what is broken, and what repairs it."""
