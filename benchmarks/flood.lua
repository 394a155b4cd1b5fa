-- Callers who come at random moments, at a given rate together: each waits for a while of random length, then asks.
function init(args)
  math.randomseed(tonumber(args[2]))
  mean = tonumber(args[1])
end

function delay()
  return -mean * math.log(1 - math.random())
end

-- Refusals are the statuses that wrk takes for errors, and sooner than any answer: they are the lower part of all latencies.
function done(summary, latency, requests)
  local e = summary.errors
  local share = e.status / summary.requests
  io.write(string.format(
    '\n{"requests": %d, "refused": %d, "p50_ms": %.4f, "p99_ms": %.4f, "lost": %d}\n', summary.requests, e.status,
    latency:percentile(50 * share) / 1e3, latency:percentile(99 * share) / 1e3, e.connect + e.read + e.write + e.timeout))
end
