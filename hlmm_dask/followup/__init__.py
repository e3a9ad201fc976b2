"""What is done with chosen variants of a finished scan."""
