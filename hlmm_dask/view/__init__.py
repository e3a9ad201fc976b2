"""Views: they read events and results, no more."""
