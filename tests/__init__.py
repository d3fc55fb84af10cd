"""The tests: each one is named by the rule it holds."""
