// What the groups after a state of the decision diagram add at least to the load of all devices, and of one.
//
// G groups, R replicas, T types; g and j are groups, r and q sizes of sets of devices, w_min the least weight of a
// type. The groups to come are cut into *runs*: main groups one after another that have the same devices. Within a run
// nothing moves; between a run on r devices and one on q others, at least
//
//     moved_share(r, q) = w_min * max(0, r share[r] + q share[q] - 2 common kept[r, q])
//
// of the micro-batches move, sent and received together, where `common` is the most devices that two different sets of
// these sizes can share. A satellite runs where its main group does, or elsewhere for the price of a move; then it
// leaves the load of the run as it is.

#pragma once

#include <cstdint>
#include <vector>

#include "border/owned.h"
#include "border/view.h"
#include "planners/bounds/group_row.h"

namespace drlpp {

class CompletionBound {
 public:
  // `between` is what `least_between` gives.
  CompletionBound(const Row& row, const Overlap& overlap, const Cube<const double>& between);

  // Room that sets of devices have left: [R + 1], the load that each of q devices can still take; it does not rise
  // with q. Negative: there are not so many devices.
  using Room = View<const double>;

  // Least weighted loads after group g, for g from `first` on: if r devices run g and go on up to group j at most,
  // `ahead.row(g, r)[j]`.
  //
  // Args:
  //     room: of the devices.
  //     start: [G + 1, R + 1] for results in between.
  //     ahead: [G, R + 1, G].
  void to_come(Int first, Room room, Table<double> start, Cube<double> ahead) const;

  // The last group up to which r devices with so much room left can go on after group g.
  Int last_of_run(Int g, Int r, double room) const;

  // Least load after group g of one of the r devices of type t that run the last main group.
  double onward(Int t, Int g, Int r) const { return onward_.row(t, g)[r]; }

  // Least load after group g of a device of type t outside the last main group's set, if it ever runs a group again,
  // in a set of at most q.
  double enter(Int q, Int t, Int g) const { return enter_.row(q, t)[g]; }

 private:
  Int num_groups() const { return moved_.size(); }
  Int max_replicas() const { return exchange_.size() - 1; }
  void set_moves(const Overlap& overlap, Int devices, double least_weight);
  void set_stays(const Row& row, const Cube<const double>& between, double least_weight);
  void set_onward(const Row& row, const Overlap& overlap);
  // Least weighted load from group g on, if a new run on at most so many devices begins there after one on r devices;
  // inf if none has room.
  double start_of_run(Int g, Int r, Int most, Room room, const Cube<double>& ahead) const;

  View<const double> moved_;        // [G] seconds that are exchanged with the main group before
  View<const bool> satellite_;      // [G]
  View<const double> exchange_;     // [R + 1]
  Int all_devices_;                 // a set of this size has every device (R + 1: no set has)
  OwnedTable<double> moved_share_;  // [R + 1, R + 1] see above
  OwnedTable<double> of_each_;      // [R + 1, R + 1] part that each device of q moves after a set of r
  OwnedTable<double> of_new_;       // [R + 1, R + 1] part that a device of q moves that is not in the set of r
  OwnedTable<Int> new_;             // [R + 1, R + 1] least number of such devices
  OwnedTable<double> stay_;         // [G + 1, R + 1] least weighted load of the groups before g on the same r devices
  OwnedTable<double> here_;         // [G, R + 1] least load of each of r devices by a main group; 0 for satellites
  OwnedTable<double> run_;          // [G + 1, R + 1] sum of `here_` and of what was taken out, over the groups before
  OwnedCube<double> onward_;        // [T, G, R + 1]
  OwnedCube<double> enter_;         // [R + 1, T, G]
};

// [T, G, R + 1] least load of each of r devices by what was taken out of the row before a group, if the main groups
// around it have the same devices: min(between_s / r, part * moved_s), where `part` is the least part of the
// micro-batches that goes to another set and comes back. One way only counts, since the other one may count as a value
// that skips groups.
OwnedCube<double> least_between(const Row& row, const Overlap& overlap);

}  // namespace drlpp
