"""Other inference servers beside this one, under the same load."""
