"""The machine: real servers under every kind of fault, and what must hold meanwhile and afterwards.

`world` starts the `hosts`, `faults` breaks them, `ledger` judges each answer, and `soak` mixes all.
"""
