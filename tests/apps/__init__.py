"""Applications that the tests run under real servers."""
