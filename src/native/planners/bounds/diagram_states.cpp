#include "planners/bounds/diagram_states.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "border/hash_table.h"

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Sets that one state may choose from; devices with the closest loads count as alike where there would be more.
constexpr double MAX_CHOICES = 256;
// Better states that each state is compared with.
constexpr Int MOST_COMPARED = 300;
// Factor on the width of a cell of loads while a layer is too wide.
constexpr double GROWTH = 1.5;

Int cell_of(double load, double cell) { return static_cast<Int>(load / cell); }

std::uint64_t hash_of(const Loads& loads, double cell) {
  std::uint64_t hash = hash_start;
  for (const Int devices : loads.parts) hash = hash_step(hash, static_cast<std::uint64_t>(devices));
  for (const double load : loads.load) hash = hash_step(hash, static_cast<std::uint64_t>(cell_of(load, cell)));
  return hash ^ (hash >> 29);
}

bool in_same_cells(View<const double> a, View<const double> b, double cell) {
  for (Int d = 0; d < a.size(); ++d) {
    if (cell_of(a[d], cell) != cell_of(b[d], cell)) return false;
  }
  return true;
}

Loads loads_of(const States& states, Int i) { return {states.load(i), states.parts(i)}; }

// Row numbers by a key, smallest first; equal ones stay in their order.
template <class Key>
std::vector<Int> sorted_rows(Int size, const Key& key) {
  std::vector<Int> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](Int i, Int j) { return key(i) < key(j); });
  return order;
}

// Joins the two classes of one part, neighbours in `classes`, whose loads are closest; false if there are none.
bool join_closest(std::vector<DeviceClass>& classes, double& choices) {
  std::size_t at = 0;
  double least = infinity;
  for (std::size_t c = 1; c < classes.size(); ++c) {
    if (classes[c].part != classes[c - 1].part) continue;
    const double loss = (classes[c].load - classes[c - 1].load) * classes[c].size;
    if (loss < least) {
      at = c;
      least = loss;
    }
  }
  if (at == 0) return false;
  DeviceClass& kept = classes[at - 1];
  const Int size = classes[at].size;
  choices *= static_cast<double>(kept.size + size + 1) / ((kept.size + 1) * (size + 1));
  kept.size += size;
  classes.erase(classes.begin() + static_cast<std::ptrdiff_t>(at));
  return true;
}

// State i meets state j of the same cells: they are joined in row j, or the one with the smaller sum is kept.
void meet(States& states, Int j, Int i, bool relaxed) {
  if (relaxed) {
    states.lower(j, states.load(i), states.sums(i));
    states.sums(j).least = std::min(states.sums(j).least, states.sums(i).least);
  } else if (states.sums(i).full < states.sums(j).full) {
    states.copy(j, i);
  }
}

// Keeps one state of each cell, and those that are exact; returns how many are left.
Int keep_one_of_each_cell(States& states, StateTable& table, double cell, bool relaxed, std::vector<char>& is_exact) {
  table.clear();
  Int left = 0;
  for (Int i = 0; i < states.size(); ++i) {
    Int slot = -1;
    if (!is_exact[i]) {
      slot = table.find(states, loads_of(states, i), cell);
      if (table[slot] >= 0) {
        meet(states, table[slot], i, relaxed);
        continue;
      }
    }
    if (left < i) {
      states.copy(left, i);
      is_exact[left] = is_exact[i];
    }
    if (slot >= 0) table.set(slot, left);
    ++left;
  }
  return left;
}

// Whether state j is at most as loaded as state i, in the sum and on every device.
bool is_better(const States& states, Int j, Int i) {
  if (!(states.sums(j).total <= states.sums(i).total)) return false;
  const auto better = states.load(j), worse = states.load(i);
  for (Int d = 0; d < better.size(); ++d) {
    if (better[d] > worse[d]) return false;
  }
  return true;
}

}  // namespace

double States::largest_load(Int i) const {
  const auto loads = load(i);
  return *std::max_element(loads.begin(), loads.end());
}

void States::resize(Int size) {
  load_.resize(size * devices_);
  part_.resize(size * parts_);
  sums_.resize(size);
  parent_.resize(size);
  origin_.resize(size * devices_);
  chosen_.resize(size * devices_);
}

void States::add(const Loads& loads, const Sums& sums, const Step& step) {
  resize(size() + 1);
  replace(size() - 1, loads, sums, step);
}

void States::replace(Int i, const Loads& loads, const Sums& sums, const Step& step) {
  std::copy(loads.load.begin(), loads.load.end(), load_.begin() + i * devices_);
  std::copy(loads.parts.begin(), loads.parts.end(), part_.begin() + i * parts_);
  sums_[i] = sums;
  parent_[i] = step.parent;
  std::copy(step.origin.begin(), step.origin.end(), origin_.begin() + i * devices_);
  std::copy(step.chosen.begin(), step.chosen.end(), chosen_.begin() + i * devices_);
}

void States::copy(Int j, Int i) {
  std::copy_n(load_.begin() + i * devices_, devices_, load_.begin() + j * devices_);
  std::copy_n(part_.begin() + i * parts_, parts_, part_.begin() + j * parts_);
  sums_[j] = sums_[i];
  parent_[j] = parent_[i];
  std::copy_n(origin_.begin() + i * devices_, devices_, origin_.begin() + j * devices_);
  std::copy_n(chosen_.begin() + i * devices_, devices_, chosen_.begin() + j * devices_);
}

void States::lower(Int j, View<const double> load, const Sums& sums) {
  const auto own = this->load(j);
  for (Int d = 0; d < devices_; ++d) own[d] = std::min(own[d], load[d]);
  sums_[j].total = std::min(sums_[j].total, sums.total);
  sums_[j].full = std::min(sums_[j].full, sums.full);
}

States States::rows(const std::vector<Int>& numbers) const {
  States out(devices_, parts_ / parts_per_type);
  out.resize(static_cast<Int>(numbers.size()));
  for (std::size_t j = 0; j < numbers.size(); ++j) {
    const Int i = numbers[j], row = static_cast<Int>(j);
    std::copy_n(load_.begin() + i * devices_, devices_, out.load_.begin() + row * devices_);
    std::copy_n(part_.begin() + i * parts_, parts_, out.part_.begin() + row * parts_);
    out.sums_[j] = sums_[i];
    out.parent_[j] = parent_[i];
    std::copy_n(origin_.begin() + i * devices_, devices_, out.origin_.begin() + row * devices_);
    std::copy_n(chosen_.begin() + i * devices_, devices_, out.chosen_.begin() + row * devices_);
  }
  return out;
}

StateTable::StateTable(Int capacity) : slots_(table_slots(2 * capacity), -1) {}

void StateTable::clear() { std::fill(slots_.begin(), slots_.end(), -1); }

Int StateTable::find(const States& states, const Loads& loads, double cell) const {
  return find_slot(static_cast<Int>(slots_.size()), hash_of(loads, cell), [&](Int slot) {
    const Int j = slots_[slot];
    if (j < 0) return true;
    const auto parts = states.parts(j);
    return std::equal(parts.begin(), parts.end(), loads.parts.begin()) &&
           in_same_cells(states.load(j), loads.load, cell);
  });
}

void find_classes(const States& states, Int i, std::vector<DeviceClass>& out) {
  out.clear();
  const auto load = states.load(i);
  const auto parts = states.parts(i);
  double choices = 1.0;
  Int d = 0;
  for (Int part = 0; part < parts.size(); ++part) {
    for (Int k = 0; k < parts[part]; ++k, ++d) {
      if (k > 0 && load[d] == out.back().load) {
        choices *= static_cast<double>(out.back().size + 2) / (out.back().size + 1);
        out.back().size += 1;
      } else {
        out.push_back({load[d], 1, part, d});
        choices *= 2;
      }
    }
  }
  while (choices > MAX_CHOICES && join_closest(out, choices)) {
  }
}

double coarsen(States& states, StateTable& table, double cell, const Coarsening& how) {
  const Int size = states.size();
  std::vector<char> is_exact(size, 0);
  if (how.relaxed) {
    const auto order = sorted_rows(size, [&](Int i) { return states.sums(i).least; });
    for (Int k = 0; k < std::min(size, how.width / 2); ++k) is_exact[order[k]] = 1;
  }
  double larger = cell, largest = 0.0;
  for (Int i = 0; i < size; ++i) largest = std::max(largest, states.largest_load(i));
  while (states.size() > how.width) {
    if (larger > largest) std::fill(is_exact.begin(), is_exact.end(), 0);  // only kinds of parts are told apart
    larger *= GROWTH;
    states.cut(keep_one_of_each_cell(states, table, larger, how.relaxed, is_exact));
  }
  if (!how.relaxed) return larger;
  table.clear();
  for (Int i = 0; i < states.size(); ++i) {
    const Int slot = table.find(states, loads_of(states, i), cell);
    if (table[slot] < 0) table.set(slot, i);
  }
  return cell;
}

std::vector<Int> undominated(const States& states) {
  const auto order = sorted_rows(states.size(), [&](Int i) { return states.sums(i).full; });
  std::vector<std::vector<Int>> kept_of_kind;  // by the parts of the states
  std::vector<Int> kept;
  for (const Int i : order) {
    const auto parts = states.parts(i);
    auto kind = std::find_if(kept_of_kind.begin(), kept_of_kind.end(), [&](const std::vector<Int>& same) {
      return std::equal(parts.begin(), parts.end(), states.parts(same.front()).begin());
    });
    if (kind == kept_of_kind.end()) kind = kept_of_kind.emplace(kept_of_kind.end());
    const auto compared = kind->begin() + std::min<std::ptrdiff_t>(kind->size(), MOST_COMPARED);
    if (std::any_of(kind->begin(), compared, [&](Int j) { return is_better(states, j, i); })) continue;
    kind->push_back(i);
    kept.push_back(i);
  }
  return kept;
}

}  // namespace drlpp
