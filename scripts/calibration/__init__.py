"""What `calibrate.py` simulates and counts."""
