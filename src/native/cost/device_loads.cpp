#include "cost/device_loads.h"

#include <algorithm>
#include <numeric>

namespace drlpp {

Int common_period(Int period, Int round) {
  return std::min(LONGEST_PERIOD, period / std::gcd(period, round) * round);
}

namespace {

// Adds the transfers of message k, averaged over the micro-batches in which other replicas meet.
void add_message(const PlacedStages& p, Int k, Reals& load, Ints& stamp, Int& counter) {
  const Int s = p.message_src[k];
  Int period = p.round(s);
  for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) period = common_period(period, p.round(p.dst[j]));
  const double given = p.message_s[k];
  for (Int m = 0; m < period; ++m) {
    const Int src = p.device(s, m);
    stamp[src] = ++counter;
    bool sent = false;
    for (Int j = p.dst_off[k]; j < p.dst_off[k + 1]; ++j) {
      const Int q = p.device(p.dst[j], m);
      if (stamp[q] == counter) continue;
      stamp[q] = counter;
      const double whole = given >= 0.0 ? given : transfer_s(p.links.path(src, q), p.message_bytes[k]);
      const double seconds = whole / static_cast<double>(period);
      load[q] += seconds;
      if (given < 0.0 || !sent) {
        load[src] += seconds;
        sent = true;
      }
      if (p.message_grad[k]) {
        load[q] += seconds;
        load[src] += seconds;
      }
    }
  }
}

}  // namespace

void device_loads(const PlacedStages& p, Reals& load) {
  load.assign(p.used.size(), 0.0);
  for (Int s = 0; s < p.num_stages(); ++s) {
    for (Int i = p.slot_off[s]; i < p.slot_off[s + 1]; ++i) {
      const double seconds = p.seconds(FORWARD, i) + p.seconds(BACKWARD, i);
      load[p.slot_device[i]] += seconds * static_cast<double>(p.turns(i)) / static_cast<double>(p.round(s));
    }
  }
  Ints stamp(p.used.size(), 0);
  Int counter = 0;
  for (Int k = 0; k < p.num_messages(); ++k) add_message(p, k, load, stamp, counter);
  for (Int g = 0; g < p.num_groups(); ++g) {
    for (Int i = p.group_off[g]; i < p.group_off[g + 1]; ++i) {
      load[p.group_device[i]] += p.group_s[g] / static_cast<double>(p.num_microbatches);
    }
  }
}

}  // namespace drlpp
