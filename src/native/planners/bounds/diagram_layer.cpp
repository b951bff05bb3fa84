#include "planners/bounds/diagram_layer.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace drlpp {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// States of a layer that there may be before they are joined, or dropped, over those that may be left.
constexpr Int SPACE = 8, SPACE_IF_DROPPED = 4;
// Steps that may be spent on what is to come after one state.
constexpr Int CLOSE = 10'000;

// States that a layer has room for: no more than there can be, if each state takes any set.
Int space_for(const Coarsening& how, Int num_before, Int devices) {
  const Int space = (how.relaxed ? SPACE : SPACE_IF_DROPPED) * how.width;
  return devices < 32 ? std::min(space, num_before << devices) : space;
}

bool is_worth_a_closer_look(const Row& row, Int group) {
  const Int left = row.num_groups() - group, most = row.max_replicas();
  return left > 1 && left * most * (left + 4 * most) <= CLOSE;
}

}  // namespace

LayerBuilder::LayerBuilder(const Diagram& diagram, Int group, Int num_before, double cell)
    : diagram_(diagram),
      row_(diagram.row),
      group_(group),
      is_satellite_(row_.satellite[group]),
      hold_(static_cast<Hold>(row_.held[group])),
      is_last_(group + 1 == row_.num_groups()),
      is_close_(is_worth_a_closer_look(row_, group)),
      space_(space_for(diagram.how, num_before, row_.num_devices())),
      cell_(cell),
      states_(row_.num_devices(), row_.num_types()),
      table_(space_),
      load_(row_.num_devices()),
      parts_(parts_per_type * row_.num_types()),
      origin_(row_.num_devices()),
      chosen_(row_.num_devices()),
      room_(row_.max_replicas() + 1),
      start_(row_.num_groups() + 1, row_.max_replicas() + 1, 0.0),
      ahead_(is_close_ ? row_.num_groups() : 0, row_.max_replicas() + 1, row_.num_groups(), 0.0) {}

States LayerBuilder::best() {
  States out = states_.rows(undominated(states_));
  if (out.size() > diagram_.how.width) coarsen(out, table_, cell_, diagram_.how);
  return out;
}

void LayerBuilder::extend(const States& before, Int i) {
  start_choices(before, i);
  while (next_choice()) {
    Choice choice{};
    for (const Halves& halves : halves_) choice.replicas += halves.taken.size;
    if (choice.replicas > row_.max_replicas() || !add_loads(choice)) continue;
    choice.main_size = is_satellite_ ? size_of_main_ : choice.replicas;
    if (!is_last_ && !find_dead(choice)) continue;
    Sums sums{choice.total, before_.full + (choice.total - before_.total) + choice.inside, 0.0};
    // `full` and the loads may be the least of different joined states: what these leave is not added to it
    const double lost = std::max(sums.full, choice.loads + choice.wasted);
    choice.last_of_run = diagram_.bound.last_of_run(group_, choice.main_size, diagram_.limit_s - fullest_main());
    choice.sum = std::max(choice.total + row_.apart, lost);
    sums.least = choice.sum + diagram_.to_come.row(group_, choice.main_size)[choice.last_of_run];
    if (sums.least > diagram_.sum_limit_s) continue;
    if (diagram_.how.relaxed) sums.full = lost;
    set_parts(choice);
    sort_devices();
    put(sums, choice, i);
  }
}

// Begins with a state: no device is taken yet.
void LayerBuilder::start_choices(const States& before, Int i) {
  find_classes(before, i, classes_);
  before_ = before.sums(i);
  halves_.clear();
  most_taken_.clear();
  size_of_main_ = size_of_held_ = 0;
  for (const DeviceClass& c : classes_) {
    if (in_main(c.part)) size_of_main_ += c.size;
    if (in_held(c.part)) size_of_held_ += c.size;
    double lightest = infinity;
    for (Int q = 1; q <= row_.max_replicas(); ++q) {
      lightest =
          std::min(lightest, row_.seconds[type_of(c.part)][group_] / q + row_.exchange[q] * row_.param_bytes[group_]);
    }
    most_taken_.push_back(c.load + lightest <= diagram_.limit_s ? c.size : 0);
    halves_.push_back({{true, 0, 0.0, false, 0}, {false, c.size, 0.0, false, 0}});
  }
}

// The next number of devices from each class; false: there is none.
bool LayerBuilder::next_choice() {
  for (std::size_t c = 0; c < halves_.size(); ++c) {
    Int& taken = halves_[c].taken.size;
    const bool is_full = taken == most_taken_[c];
    taken = is_full ? 0 : taken + 1;
    halves_[c].left.size = classes_[c].size - taken;
    if (!is_full) return true;
  }
  return false;
}

// Whether the devices taken are those whose part is inside.
bool LayerBuilder::is_same_set(bool (*is_inside)(Int part)) const {
  for (std::size_t c = 0; c < halves_.size(); ++c) {
    if (halves_[c].taken.size != (is_inside(classes_[c].part) ? classes_[c].size : 0)) return false;
  }
  return true;
}

LayerBuilder::Moves LayerBuilder::moves(double seconds, Int old_size, Int new_size, bool same) const {
  if (old_size == 0 || same) return {};
  const Overlap& overlap = diagram_.overlap;
  return {seconds * overlap.moved_by_both(old_size, new_size), seconds * overlap.share[new_size],
          seconds * overlap.share[old_size]};
}

// Sets the loads after the group; false if one exceeds the limit.
bool LayerBuilder::add_loads(Choice& choice) {
  const Int q = choice.replicas;
  choice.same_as_main = is_same_set(in_main);
  choice.still_held = hold_ == Hold::keep || (hold_ == Hold::keep_if_same && choice.same_as_main);
  choice.total = before_.total;
  const bool stays = !is_satellite_ && choice.same_as_main;
  const Moves main = moves(row_.moved_s[group_], size_of_main_, q, choice.same_as_main);
  const Moves held = moves(row_.beside_s[group_], size_of_held_, q, is_same_set(in_held));
  for (std::size_t c = 0; c < halves_.size(); ++c) {
    const DeviceClass& of = classes_[c];
    Half &taken = halves_[c].taken, &left = halves_[c].left;
    const Int t = type_of(of.part);
    double own = row_.seconds[t][group_] / q + row_.exchange[q] * row_.param_bytes[group_];
    own += (in_main(of.part) ? main.in_both : main.in_new_only) + (in_held(of.part) ? held.in_both : held.in_new_only);
    const double other = (in_main(of.part) ? main.in_old_only : 0.0) + (in_held(of.part) ? held.in_old_only : 0.0);
    const double beside = stays ? diagram_.between.row(t, group_)[q] : 0.0;
    taken.load = of.load + own + beside;
    left.load = of.load + other;
    const double limit = diagram_.limit_s;
    if ((taken.size > 0 && taken.load > limit) || (left.size > 0 && left.load > limit)) return false;
    choice.total += row_.weight[t] * (taken.size * own + left.size * other);
    choice.inside += row_.weight[t] * taken.size * beside;
    choice.loads += row_.weight[t] * (taken.size * taken.load + left.size * left.load);
  }
  return true;
}

// Largest load of the devices that the last main group runs on.
double LayerBuilder::fullest_main() const {
  double fullest = 0.0;
  for (std::size_t c = 0; c < halves_.size(); ++c) {
    const Half &taken = halves_[c].taken, &left = halves_[c].left;
    if (is_satellite_ && in_main(classes_[c].part)) {
      fullest = std::max(fullest, taken.size > 0 ? taken.load : left.load);
    } else if (!is_satellite_ && taken.size > 0) {
      fullest = std::max(fullest, taken.load);
    }
  }
  return fullest;
}

// Finds the devices that can run no group any more; false if those of the last main group cannot go on.
bool LayerBuilder::find_dead(Choice& choice) {
  const CompletionBound& bound = diagram_.bound;
  Int alive = row_.num_devices();
  while (true) {  // fewer devices that live make smaller sets, which load each of them more
    Int number = 0;
    choice.wasted = 0.0;
    for (std::size_t c = 0; c < halves_.size(); ++c) {
      const Int part = classes_[c].part, t = type_of(part);
      for (Half* half : {&halves_[c].taken, &halves_[c].left}) {
        const bool in_last_main = is_satellite_ ? in_main(part) : half->is_taken;
        const bool is_held = hold_ == Hold::start ? half->is_taken : choice.still_held && in_held(part);
        const double left = diagram_.limit_s - half->load;
        half->is_dead = !in_last_main && left < bound.enter(std::min(alive, row_.max_replicas()), t, group_);
        if (half->size > 0 && in_last_main && left < bound.onward(t, group_, choice.main_size)) return false;
        if (!half->is_dead) {
          number += half->size;
        } else if (!is_held) {
          choice.wasted += half->size * row_.weight[t] * left;
        }
      }
    }
    if (number == alive) return true;
    alive = number;
  }
}

// Sets the parts of the devices after the group.
void LayerBuilder::set_parts(const Choice& choice) {
  for (std::size_t c = 0; c < halves_.size(); ++c) {
    const Int before = classes_[c].part;
    for (Half* half : {&halves_[c].taken, &halves_[c].left}) {
      const bool in_last_main = is_satellite_ ? in_main(before) : half->is_taken;
      const bool is_held = hold_ == Hold::start ? half->is_taken : choice.still_held && in_held(before);
      half->part = parts_per_type * type_of(before) +
                   (in_last_main ? (is_held ? in_both : in_main_only) : (is_held ? in_held_only : in_neither));
    }
  }
}

// Writes the devices after the group by part, those of a part by load.
void LayerBuilder::sort_devices() {
  Int filled = 0;
  for (Int part = 0; part < size_of(parts_); ++part) {
    const Int begin = filled;
    for (std::size_t c = 0; c < halves_.size(); ++c) {
      const Half &taken = halves_[c].taken, &left = halves_[c].left;
      if (taken.part == part) insert(taken, classes_[c].first, begin, filled);
      if (left.part == part) insert(left, classes_[c].first + taken.size, begin, filled);
    }
    parts_[part] = filled - begin;
  }
}

// Sorts devices that are alike in among those from `begin` on.
void LayerBuilder::insert(Half half, Int first_origin, Int begin, Int& filled) {
  const bool is_lost = diagram_.how.relaxed && half.is_dead && half.part % parts_per_type == in_neither;
  const double load = is_lost ? diagram_.limit_s : half.load;
  for (Int k = 0; k < half.size; ++k, ++filled) {
    Int d = filled;
    for (; d > begin && load_[d - 1] > load; --d) {
      load_[d] = load_[d - 1];
      origin_[d] = origin_[d - 1];
      chosen_[d] = chosen_[d - 1];
    }
    load_[d] = load;
    origin_[d] = first_origin + k;
    chosen_[d] = half.is_taken;
  }
}

// Weighted sum at the end of the row, with the room that is left on each device.
double LayerBuilder::closer_sum(const Choice& choice) {
  Reals rooms;
  for (const Halves& halves : halves_) {
    for (const Half* half : {&halves.taken, &halves.left}) {
      if (!half->is_dead) rooms.insert(rooms.end(), half->size, diagram_.limit_s - half->load);
    }
  }
  std::sort(rooms.begin(), rooms.end(), std::greater<double>());
  std::fill(room_.begin(), room_.end(), -1.0);
  const std::size_t number = std::min(rooms.size(), room_.size() - 1);
  std::copy_n(rooms.begin(), number, room_.begin() + 1);
  diagram_.bound.to_come(group_, cview(room_), start_.table(), ahead_.cube());
  return choice.sum + ahead_.row(group_, choice.main_size)[choice.last_of_run];
}

// Adds the state, unless it cannot end within the limits or an equal one is better; joins or drops some if needed.
void LayerBuilder::put(Sums sums, const Choice& choice, Int parent) {
  const Loads loads{cview(load_), cview(parts_)};
  const Step step{parent, cview(origin_), cview(chosen_)};
  bool is_checked = !is_close_;
  while (true) {
    const Int slot = table_.find(states_, loads, cell_);
    const Int known = table_[slot];
    if (known >= 0 && diagram_.how.relaxed) {
      states_.lower(known, loads.load, sums);
      return;
    }
    if (!is_checked) {
      is_checked = true;
      sums.least = closer_sum(choice);
      if (sums.least > diagram_.sum_limit_s) return;
    }
    if (known >= 0) {
      if (sums.full < states_.sums(known).full) states_.replace(known, loads, sums, step);
      return;
    }
    if (states_.size() < space_) {
      table_.set(slot, states_.size());
      states_.add(loads, sums, step);
      return;
    }
    cell_ = coarsen(states_, table_, cell_, diagram_.how);
  }
}

}  // namespace drlpp
