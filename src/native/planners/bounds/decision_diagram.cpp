#include "planners/bounds/decision_diagram.h"

#include <algorithm>
#include <numeric>

#include "planners/bounds/diagram_layer.h"

namespace drlpp {

namespace {

// Width of a cell of loads at the beginning of a layer, in units of the bound.
constexpr double FIRST_CELL = 1e-3;
// States that are gone through between two looks at the budget.
constexpr Int STATES_AT_ONCE = 32;

// Before the row: no device has a load or is in a set.
States first_layer(const Row& row) {
  const Int devices = row.num_devices();
  States states(devices, row.num_types());
  const Reals load(devices, 0.0);
  Ints parts(parts_per_type * row.num_types(), 0);
  for (Int t = 0; t < row.num_types(); ++t) parts[parts_per_type * t + in_neither] = row.count[t];
  const Ints origin(devices, 0);
  const std::vector<char> chosen(devices, 0);
  states.add({view(load), cview(parts)}, {0.0, 0.0, 0.0}, {0, view(origin), view(chosen)});
  return states;
}

std::optional<States> next_layer(const Diagram& diagram, Int group, const States& before, double cell,
                                 const std::function<bool()>& is_spent) {
  LayerBuilder builder(diagram, group, before.size(), cell);
  for (Int i = 0; i < before.size(); ++i) {
    if (i % STATES_AT_ONCE == 0 && is_spent()) return std::nullopt;
    builder.extend(before, i);
  }
  if (is_spent()) return std::nullopt;
  return builder.best();
}

// The sets on the way to state `at` of the last layer.
Way trace(const std::vector<States>& layers, Int num_devices, Int at) {
  Ints states_on_way(layers.size());
  for (std::size_t g = layers.size(); g-- > 0;) {
    states_on_way[g] = at;
    at = layers[g].parent(at);
  }
  Ints device(num_devices), moved(num_devices);
  std::iota(device.begin(), device.end(), 0);
  Way way;
  for (std::size_t g = 0; g < layers.size(); ++g) {
    const Int state = states_on_way[g];
    Ints set;
    for (Int d = 0; d < num_devices; ++d) {
      moved[d] = device[layers[g].origin(state)[d]];
      if (layers[g].is_chosen(state, d)) set.push_back(moved[d]);
    }
    std::sort(set.begin(), set.end());
    way.push_back(std::move(set));
    device.swap(moved);
  }
  return way;
}

}  // namespace

std::optional<std::vector<Way>> find_sets(const Row& row, const Overlap& overlap, const Question& question,
                                          const std::function<bool()>& is_spent) {
  if (row.num_groups() == 0) return std::vector<Way>(1);
  const Int num = row.num_groups(), most = row.max_replicas();
  const double limit_s = question.bound_s * (1 + question.tolerance);
  const OwnedCube<double> between = least_between(row, overlap);
  const CompletionBound bound(row, overlap, between.cube());
  const Reals room(most + 1, limit_s);
  OwnedTable<double> start(num + 1, most + 1, 0.0);
  OwnedCube<double> to_come(num, most + 1, num, 0.0);
  bound.to_come(0, view(room), start.table(), to_come.cube());
  const Diagram diagram{row,
                        overlap,
                        bound,
                        between.cube(),
                        std::as_const(to_come).cube(),
                        limit_s,
                        question.capacity * limit_s,
                        {question.width, question.relaxed}};
  std::vector<States> layers;
  for (Int g = 0; g < num; ++g) {
    const States first = first_layer(row);
    const States& before = layers.empty() ? first : layers.back();
    auto layer = next_layer(diagram, g, before, question.bound_s * FIRST_CELL, is_spent);
    if (!layer) return std::nullopt;
    if (layer->size() == 0) return std::vector<Way>();
    layers.push_back(std::move(*layer));
  }
  const States& last = layers.back();
  Ints order(last.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](Int i, Int j) { return last.largest_load(i) < last.largest_load(j); });
  std::vector<Way> ways;
  for (Int k = 0; k < std::min(question.most_ways, size_of(order)); ++k) {
    ways.push_back(trace(layers, row.num_devices(), order[k]));
  }
  return ways;
}

}  // namespace drlpp
