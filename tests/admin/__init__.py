"""The pages and the JSON interface: with a test client, and in a real browser."""
