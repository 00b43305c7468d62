"""`saccade tune`: finds out how a model should run on this machine. Empty, so that each room imports its own."""
