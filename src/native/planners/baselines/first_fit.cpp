#include "planners/baselines/first_fit.h"

#include <algorithm>

#include "border/checks.h"

namespace drlpp {

Ints first_fit(Table<const double> seconds, View<const Int> order, const Arcs& arcs, double cap_s) {
  check_length("order", order.size(), seconds.columns);
  check_length("before_ptr", arcs.before_ptr.size(), seconds.columns + 1);
  check_range("order", order, 0, seconds.columns);
  Reals load(seconds.rows, 0.0);
  Ints place_of(order.size(), 0);
  for (const Int op : order) {
    Int place = 0;
    for (const Int before : arcs.predecessors(op)) place = std::max(place, place_of[before]);
    while (place < seconds.rows && load[place] + seconds[place][op] > cap_s) ++place;
    if (place == seconds.rows) return {};
    place_of[op] = place;
    load[place] += seconds[place][op];
  }
  return place_of;
}

}  // namespace drlpp
