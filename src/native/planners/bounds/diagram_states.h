// States of a layer of the decision diagram: devices that are alike, states that are joined or dropped where they are
// too many, and states that others are better than.

#pragma once

#include <cstdint>
#include <vector>

#include "border/view.h"

namespace drlpp {

// The *part* of a device in a state: whether it is in the set of the last main group, and in that of the held group.
// A type t has four parts, 4 t to 4 t + 3.
constexpr Int parts_per_type = 4;
enum Part : Int { in_both = 0, in_main_only = 1, in_held_only = 2, in_neither = 3 };
inline Int type_of(Int part) { return part / parts_per_type; }
inline bool in_main(Int part) { return part % parts_per_type <= in_main_only; }
inline bool in_held(Int part) { return part % parts_per_type == in_both || part % parts_per_type == in_held_only; }

// Weighted sums over the devices of a state. For a state s: w_d the weight of device d, load_d its load.
struct Sums {
  double total;  // sum of w_d x (what the groups of the row put on device d)
  double full;   // `total`, what was taken out of the row so far, and what is left of devices that can run no group
                 // any more: T - load_d of each
  double least;  // lower bound on the sum at the end of the row
};

// How a state came from one of the layer before.
struct Step {
  Int parent;               // that state
  View<const Int> origin;   // [D] place of the device in the parent
  View<const char> chosen;  // [D] 1: the device runs this layer's group
};

// Loads and parts of the devices of a state: what states are told apart by.
struct Loads {
  View<const double> load;  // [D] by part; sorted within a part
  View<const Int> parts;    // [4 T] number of devices of each part
};

// The states of a layer, one row each.
class States {
 public:
  States(Int devices, Int types) : devices_(devices), parts_(parts_per_type * types) {}

  Int size() const { return static_cast<Int>(sums_.size()); }
  Int num_devices() const { return devices_; }
  Int num_parts() const { return parts_; }

  View<double> load(Int i) { return {load_.data() + i * devices_, devices_}; }
  View<const double> load(Int i) const { return {load_.data() + i * devices_, devices_}; }
  View<const Int> parts(Int i) const { return {part_.data() + i * parts_, parts_}; }
  Sums& sums(Int i) { return sums_[i]; }
  const Sums& sums(Int i) const { return sums_[i]; }
  Int parent(Int i) const { return parent_[i]; }
  View<const Int> origin(Int i) const { return {origin_.data() + i * devices_, devices_}; }
  bool is_chosen(Int i, Int d) const { return chosen_[i * devices_ + d] != 0; }
  double largest_load(Int i) const;

  void add(const Loads& loads, const Sums& sums, const Step& step);
  void replace(Int i, const Loads& loads, const Sums& sums, const Step& step);
  // State i moves to row j.
  void copy(Int j, Int i);
  // Only the first so many states stay.
  void cut(Int size) { resize(size); }
  // State j becomes at most as loaded as another one.
  void lower(Int j, View<const double> load, const Sums& sums);
  // Some of the states, in the given order.
  States rows(const std::vector<Int>& numbers) const;

 private:
  void resize(Int size);

  Int devices_, parts_;
  std::vector<double> load_;
  std::vector<Int> part_;
  std::vector<Sums> sums_;
  std::vector<Int> parent_, origin_;
  std::vector<char> chosen_;
};

// Finds states of a layer by parts and *cells* of loads: loads are alike if load / cell is the same whole number.
class StateTable {
 public:
  // Args:
  //     capacity: most states that the table holds.
  explicit StateTable(Int capacity);

  // The slot of the state with these parts and cells, or the free slot where it belongs.
  Int find(const States& states, const Loads& loads, double cell) const;
  // State in a slot; -1 if the slot is free.
  Int operator[](Int slot) const { return slots_[slot]; }
  void set(Int slot, Int state) { slots_[slot] = state; }
  void clear();

 private:
  std::vector<Int> slots_;
};

// Devices of a state that are alike: one part, and one load or loads that count as one.
struct DeviceClass {
  double load;  // the smallest
  Int size;     // number of devices
  Int part;     // see above
  Int first;    // place of the first device in the state
};

// The classes of a state's devices. There are so few that a state chooses from at most `MAX_CHOICES` sets, as far as
// types and parts allow: classes of one part whose loads are closest become one.
void find_classes(const States& states, Int i, std::vector<DeviceClass>& out);

// How states of a layer that are too many become fewer.
struct Coarsening {
  Int width;     // most states that are left
  bool relaxed;  // states of one cell are joined; if not, the one with the smallest `full` stays
};

// Keeps one state of each cell, in ever larger cells until at most `width` are left.
//
// Joined states hide nothing but promise too much. So half of them stay as they are, those with the smallest `least`,
// and later states are told apart as finely as before. If states are dropped, cells stay as large as they became.
//
// Returns: the width of the cells.
double coarsen(States& states, StateTable& table, double cell, const Coarsening& how);

// The states that no other one with the same parts is better than in `total` and every load, smallest `full` first.
// Each is compared with at most `MOST_COMPARED` others.
std::vector<Int> undominated(const States& states);

}  // namespace drlpp
