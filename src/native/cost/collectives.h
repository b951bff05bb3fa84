// What an all-reduce costs: the only compiled place of this price. `cost/collectives.py` is its definition in Python.
//
// A ring inside a host, in the order of the devices, which is as slow as its slowest link; over hosts reduce-scatter inside each host, a ring between the hosts through their ports, and
// all-gather inside (Thakur et al., IJHPCA 2005).
#pragma once

#include <algorithm>
#include <limits>

#include "cost/links.h"

namespace drlpp {

// What a kernel takes to fill its channels grows with the bytes to FILL_STEPS steps, half of them at FILL_BYTES.
constexpr double FILL_STEPS = 37.0, FILL_BYTES = 8.5e6;

// Seconds of a ring all-reduce of `num_bytes` over n members: 2 (n - 1) steps, each of 1 / n of the bytes.
inline double ring_s(Int n, double num_bytes, Path path) {
  const double steps = static_cast<double>(2 * (n - 1));
  const double wire = 2 * (n - 1) / static_cast<double>(n) * num_bytes / path.bandwidth;
  if (path.step_s == 0.0) return wire + steps * path.latency_s;
  const double filling = FILL_STEPS * num_bytes / (num_bytes + FILL_BYTES);
  return wire + path.latency_s + (steps + filling) * path.step_s;
}

// Seconds of a ring all-reduce over some devices of one host.
inline double ring_inside_s(const Links& links, View<const Int> devices, double num_bytes) {
  const Int n = devices.size(), steps = n < 2 ? 0 : links.sites[links.host[devices[0]]] == 1 ? 1 : n;
  double slowest = 0.0;
  for (Int i = 0; i < steps; ++i) {
    const Path path = links.inside(devices[i], devices[i + 1 < n ? i + 1 : 0]);
    slowest = std::max(slowest, ring_s(n, num_bytes, path));
  }
  return slowest;
}

// Seconds of an all-reduce over some devices, given in ascending order.
inline double all_reduce_s(const Links& links, View<const Int> devices, double num_bytes) {
  double inside = 0.0, bandwidth = std::numeric_limits<double>::infinity(), latency_s = 0.0;
  Int hosts = 0;
  for (Int first = 0, last = 0; first < devices.size(); first = last) {
    const Int h = links.host[devices[first]];
    while (last < devices.size() && links.host[devices[last]] == h) ++last;
    ++hosts;
    bandwidth = std::min(bandwidth, links.port_bandwidth[h]);
    latency_s = std::max(latency_s, links.port_latency_s[h]);
    inside = std::max(inside, ring_inside_s(links, devices.part(first, last), num_bytes));
  }
  return hosts < 2 ? inside : inside + ring_s(hosts, num_bytes, {bandwidth, 2 * latency_s});
}

}  // namespace drlpp
