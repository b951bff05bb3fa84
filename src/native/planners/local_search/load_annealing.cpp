#include "planners/local_search/load_annealing.h"

#include <algorithm>
#include <cmath>

#include "border/checks.h"
#include "random.h"

namespace drlpp {

namespace {

// The energy is the p-norm of the loads.
constexpr double POWER = 16.0;
// A new best energy is smaller by more than rounding errors.
constexpr double TIE_TOLERANCE = 1e-9;

double energy_of(const IncrementalLoads& loads, double scale) {
  double total = 0.0;
  for (Int u = 0; u < loads.num_devices(); ++u) total += std::pow(loads.load_s(u) / scale, POWER);
  return std::pow(total, 1.0 / POWER);
}

}  // namespace

Ints anneal_loads(IncrementalLoads& loads, const OpAmounts& ops, const Cooling& cooling) {
  check_length("param_bytes", ops.num_ops(), loads.num_ops());
  RandomStream random(cooling.seed);
  Ints best_labels = loads.labels();
  const double scale = loads.bottleneck_s();
  if (scale == 0.0) return best_labels;
  double energy = energy_of(loads, scale), best = energy, heat = cooling.hot;
  const double factor =
      std::pow(cooling.cold / cooling.hot, 1.0 / static_cast<double>(std::max<Int>(1, cooling.moves)));
  for (Int move = 0; move < cooling.moves && best != 0.0; ++move) {
    heat *= factor;
    const Int op = random.below(loads.num_ops());
    Int low = 0, high = loads.num_stages() - 1;
    for (const Int i : ops.predecessors(op)) low = std::max(low, loads.labels()[i]);
    for (const Int i : ops.successors(op)) high = std::min(high, loads.labels()[i]);
    if (low == high) continue;
    const Int old = loads.labels()[op];
    Int stage = low + random.below(high - low);
    if (stage >= old) ++stage;
    loads.move(op, stage);
    const double proposed = energy_of(loads, scale);
    if (proposed <= energy || random.unit() < std::exp((energy - proposed) / (heat * energy))) {
      energy = proposed;
      if (energy < best * (1 - TIE_TOLERANCE)) {
        best = energy;
        best_labels = loads.labels();
      }
    } else {
      loads.move(op, old);
    }
    if (loads.moves_since_refresh() >= IncrementalLoads::REFRESH_AFTER) {
      loads.refresh();
      energy = energy_of(loads, scale);
    }
  }
  return best_labels;
}

}  // namespace drlpp
