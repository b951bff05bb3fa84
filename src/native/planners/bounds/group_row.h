// The question that the decision diagram answers: groups of ops in a row and the devices that may run them.

#pragma once

#include "border/view.h"

namespace drlpp {

// What happens to the group that is held once a group of the row has run; the values of `Row.held`.
enum class Hold : Int {
  nothing = -1,      // no group is held
  keep = 0,          // what was held is held on
  start = 1,         // this group is held from now on
  keep_if_same = 2,  // held on if this group has the devices of the main group before it
};

// G groups in a row, T device types, at most R replicas; see `Row` in Python.
struct Row {
  Table<const double> seconds;     // [T, G]
  View<const double> param_bytes;  // [G]
  View<const double> moved_s;      // [G]
  View<const bool> satellite;      // [G]
  View<const double> beside_s;     // [G]
  View<const Int> held;            // [G], see `Hold`
  View<const double> exchange;     // [R + 1]
  View<const Int> count;           // [T]
  View<const double> weight;       // [T]
  Table<const double> between_s;   // [T, G]
  double apart;

  template <class Visitor>
  void visit(Visitor& field) {
    field("seconds", seconds);
    field("param_bytes", param_bytes);
    field("moved_s", moved_s);
    field("satellite", satellite);
    field("beside_s", beside_s);
    field("held", held);
    field("exchange", exchange);
    field("count", count);
    field("weight", weight);
    field("between_s", between_s);
    field("apart", apart);
  }

  // Throws std::invalid_argument where sizes do not agree.
  void check() const;

  Int num_types() const { return count.size(); }
  Int num_groups() const { return param_bytes.size(); }
  Int max_replicas() const { return exchange.size() - 1; }

  Int num_devices() const {
    Int total = 0;
    for (const Int devices : count) total += devices;
    return total;
  }
};

// Which part of the micro-batches a device of a set runs, and which it keeps where the next group has another set.
struct Overlap {
  View<const double> share;  // [R + 1] least part that one replica of r runs
  Table<const double> kept;  // [R + 1, R + 1] most that a device in sets of r and q has in common

  template <class Visitor>
  void visit(Visitor& field) {
    field("share", share);
    field("kept", kept);
  }

  // Part that a device in both of two different sets sends and receives.
  double moved_by_both(Int r, Int q) const {
    const double moved = share[r] + share[q] - 2 * kept[r][q];
    return moved > 0.0 ? moved : 0.0;
  }
};

}  // namespace drlpp
