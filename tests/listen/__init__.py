"""The listener: what it reads, when it polls, what it announces for others."""
