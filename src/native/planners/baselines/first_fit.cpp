#include "planners/baselines/first_fit.h"

#include <algorithm>

#include "border/checks.h"

namespace drlpp {

Ints first_fit(Table<const double> seconds, View<const Int> order, const OpAmounts& ops, double cap_s) {
  check_length("order", order.size(), seconds.columns);
  check_length("param_bytes", ops.num_ops(), seconds.columns);
  check_range("order", order, 0, seconds.columns);
  Reals load(seconds.rows, 0.0);
  Ints place_of(order.size(), 0);
  for (const Int op : order) {
    Int place = 0;
    for (const Int before : ops.predecessors(op)) place = std::max(place, place_of[before]);
    while (place < seconds.rows && load[place] + seconds[place][op] > cap_s) ++place;
    if (place == seconds.rows) return {};
    place_of[op] = place;
    load[place] += seconds[place][op];
  }
  return place_of;
}

}  // namespace drlpp
