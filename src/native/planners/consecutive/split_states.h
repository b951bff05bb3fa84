// What stages between two states of a dynamic program receive and send; see `split_states.py`.
#pragma once

#include "border/owned.h"
#include "cost/op_amounts.h"

namespace drlpp {

// Amounts that stage (i, j) receives and sends.
struct BoundaryAmounts {
  OwnedTable<double> received;  // [P, P] inf where state j does not contain state i
  OwnedTable<double> sent;      // [P, P]
};

// States are prefixes of a topological order.
//
// Args:
//   order: [N].
//   ends: [P - 1] where each block of the order ends; state i has the first i blocks.
BoundaryAmounts amounts_along_order(const OpAmounts& ops, View<const Int> order, View<const Int> ends);

// States are downsets, sorted so that a state comes after those that it contains.
//
// Args:
//   members: [P, N] which ops each state has.
BoundaryAmounts amounts_over_downsets(const OpAmounts& ops, Table<const bool> members);

}  // namespace drlpp
