"""What is done with the variants of a finished scan: other models, other tests."""
