"""What is left of a finished scan's loci when their models are changed."""
