// What a transfer costs: the only compiled place of this price. `cost/links.py` is its definition in Python.
//
// Inside a host there is one channel per ordered pair of devices; its link depends on their sites, which are the
// devices that links do not tell apart. Between hosts a transfer goes through the ports of both. It occupies them for bytes / bandwidth, and arrives the latency after that.
#pragma once

#include <algorithm>

#include "border/view.h"

namespace drlpp {

// The way of a transfer.
struct Path {
  double bandwidth;
  double latency_s;
  double step_s = 0.0;  // of a collective that one kernel runs; 0 where every step is a message
};

// Seconds that a transfer occupies its channel or its ports.
inline double wire_s(Path path, double num_bytes) { return num_bytes / path.bandwidth; }

// Seconds from the start of a transfer to its arrival, on an idle network.
inline double transfer_s(Path path, double num_bytes) { return wire_s(path, num_bytes) + path.latency_s; }

// The links of some devices on some hosts.
struct Links {
  Ints host, site;  // [U] host of each device, and its site there
  Ints sites, link_off;  // [H] number of sites, and where the links [sites, sites] of a host begin
  Reals link_bandwidth, link_latency_s, link_step_s;  // [L]
  Reals port_bandwidth, port_latency_s;  // [H]

  // The way from device u to another device v of the same host.
  Path inside(Int u, Int v) const {
    const Int h = host[u], k = link_off[h] + site[u] * sites[h] + site[v];
    return {link_bandwidth[k], link_latency_s[k], link_step_s[k]};
  }

  Path between(Int a, Int b) const {
    return {std::min(port_bandwidth[a], port_bandwidth[b]), port_latency_s[a] + port_latency_s[b], 0.0};
  }

  // The way from device u to another device v.
  Path path(Int u, Int v) const {
    const Int a = host[u], b = host[v];
    return a == b ? inside(u, v) : between(a, b);
  }

  Int num_hosts() const { return size_of(port_bandwidth); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("host", host);
    field("site", site);
    field("sites", sites);
    field("link_off", link_off);
    field("link_bandwidth", link_bandwidth);
    field("link_latency_s", link_latency_s);
    field("link_step_s", link_step_s);
    field("port_bandwidth", port_bandwidth);
    field("port_latency_s", port_latency_s);
  }
};

}  // namespace drlpp
