"""How fast the stages are on this machine, and how much of what the machine can do they use."""
