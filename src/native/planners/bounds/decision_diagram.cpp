#include "planners/bounds/decision_diagram.h"

#include <algorithm>
#include <numeric>

#include "planners/bounds/diagram_layer.h"

namespace drlpp {

namespace {

// Width of a cell of loads at the beginning of a layer, in units of the bound.
constexpr double FIRST_CELL = 1e-3;
// States that one call goes through.
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

// The sets on the way to state `at` of the last layer. `layers`: the one before the row, and one for each group.
Way trace(const std::vector<States>& layers, Int num_devices, Int at) {
  Ints states_on_way(layers.size());
  for (std::size_t g = layers.size(); g-- > 1;) {
    states_on_way[g] = at;
    at = layers[g].parent(at);
  }
  Ints device(num_devices), moved(num_devices);
  std::iota(device.begin(), device.end(), 0);
  Way way;
  for (std::size_t g = 1; g < layers.size(); ++g) {
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

SetSearch::SetSearch(const Row& row, const Overlap& overlap, const Question& question)
    : row_(row),
      overlap_(overlap),
      question_(question),
      between_(least_between(row_, overlap_)),
      bound_(row_, overlap_, between_.cube()),
      to_come_(row.num_groups(), row.max_replicas() + 1, row.num_groups(), 0.0),
      diagram_{row_,
               overlap_,
               bound_,
               std::as_const(between_).cube(),
               std::as_const(to_come_).cube(),
               question.bound_s * (1 + question.tolerance),
               question.capacity * question.bound_s * (1 + question.tolerance),
               {question.width, question.relaxed}} {
  if (row_.num_groups() == 0) return;
  const Reals room(row_.max_replicas() + 1, diagram_.limit_s);
  OwnedTable<double> start(row_.num_groups() + 1, row_.max_replicas() + 1, 0.0);
  bound_.to_come(0, view(room), start.table(), to_come_.cube());
  layers_.push_back(first_layer(row_));
  begin_layer();
}

void SetSearch::begin_layer() {
  const Int group = size_of(layers_) - 1;
  builder_.emplace(diagram_, group, layers_.back().size(), question_.bound_s * FIRST_CELL);
  next_ = 0;
}

bool SetSearch::advance() {
  if (!builder_) return true;
  const States& before = layers_.back();
  if (next_ < before.size()) {
    const Int stop = std::min(before.size(), next_ + STATES_AT_ONCE);
    for (; next_ < stop; ++next_) builder_->extend(before, next_);
    return false;
  }
  layers_.push_back(builder_->best());
  builder_.reset();
  if (size_of(layers_) <= row_.num_groups() && layers_.back().size() > 0) begin_layer();
  return !builder_;
}

std::vector<Way> SetSearch::ways() const {
  if (row_.num_groups() == 0) return std::vector<Way>(1);
  const States& last = layers_.back();
  Ints order(last.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](Int i, Int j) { return last.largest_load(i) < last.largest_load(j); });
  std::vector<Way> ways;
  for (Int k = 0; k < std::min(question_.most_ways, size_of(order)); ++k) {
    ways.push_back(trace(layers_, row_.num_devices(), order[k]));
  }
  return ways;
}

}  // namespace drlpp
