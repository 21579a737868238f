"""What a corpus is: its specification, and specifications by name."""
