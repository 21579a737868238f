"""Which split a problem belongs to: canonical forms, reserved problems and the proof of no leakage."""
