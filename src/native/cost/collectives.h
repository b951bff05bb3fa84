// What an all-reduce costs: the only compiled place of this price. `cost/collectives.py` is its definition in Python.
//
// A ring inside a host; over hosts reduce-scatter inside each host, a ring between the hosts through their ports, and
// all-gather inside (Thakur et al., IJHPCA 2005).
#pragma once

#include <algorithm>
#include <limits>

#include "cost/links.h"

namespace drlpp {

// Seconds of a ring all-reduce of `num_bytes` over n members: 2 (n - 1) steps, each of 1 / n of the bytes.
inline double ring_s(Int n, double num_bytes, double bandwidth, double latency_s) {
  return 2 * (n - 1) / static_cast<double>(n) * num_bytes / bandwidth + static_cast<double>(2 * (n - 1)) * latency_s;
}

// Seconds of an all-reduce over `devices_on[h]` devices of host h.
template <class Counts>
double all_reduce_s(const Links& links, const Counts& devices_on, double num_bytes) {
  double inside = 0.0, bandwidth = std::numeric_limits<double>::infinity(), latency_s = 0.0;
  Int hosts = 0;
  for (Int h = 0; h < links.num_hosts(); ++h) {
    const Int n = devices_on[h];
    if (n == 0) continue;
    ++hosts;
    bandwidth = std::min(bandwidth, links.port_bandwidth[h]);
    latency_s = std::max(latency_s, links.port_latency_s[h]);
    if (n > 1) inside = std::max(inside, ring_s(n, num_bytes, links.link_bandwidth[h], links.link_latency_s[h]));
  }
  return hosts < 2 ? inside : inside + ring_s(hosts, num_bytes, bandwidth, 2 * latency_s);
}

}  // namespace drlpp
