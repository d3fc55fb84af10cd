-- The last line: requests, failures, and microseconds: median, 99th percentile, longest.
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(summary.requests, failed, latency:percentile(50), latency:percentile(99), latency.max)
end
