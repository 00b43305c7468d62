"""What each peer runs, by path, in its own virtual environment."""
