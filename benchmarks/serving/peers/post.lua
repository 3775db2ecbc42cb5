-- wrk -t1 -c64 -d10 -s post.lua http://127.0.0.1:PORT/PATH      with env BODY=file, optional TYPE=content type, HDRLEN=n (binary tensor header length)
local f = assert(io.open(os.getenv("BODY"), "rb")); wrk.body = f:read("*a"); f:close()
wrk.method = "POST"
wrk.headers["Content-Type"] = os.getenv("TYPE") or "application/json"
if os.getenv("HDRLEN") then wrk.headers["Inference-Header-Content-Length"] = os.getenv("HDRLEN") end
function done(s, lat)
  local bad = s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout
  io.write(string.format("RESULT rps=%.1f p50_ms=%.2f p99_ms=%.2f requests=%d non2xx=%d connect=%d read=%d write=%d timeout=%d %s\n",
    s.requests / (s.duration / 1e6), lat:percentile(50) / 1000, lat:percentile(99) / 1000, s.requests,
    s.errors.status, s.errors.connect, s.errors.read, s.errors.write, s.errors.timeout, bad == 0 and "OK" or "ERRORS"))
end
