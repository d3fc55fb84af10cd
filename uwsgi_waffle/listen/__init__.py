"""The listener. Rule: it moves the host snapshot, and knows neither Flask nor what is served."""
