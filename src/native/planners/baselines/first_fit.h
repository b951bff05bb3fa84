// Ops put on the first place that is allowed and stays below a cap on its load; see `greedy.py`.
#pragma once

#include "cost/op_amounts.h"

namespace drlpp {

// [N] place of each op: not before those of its predecessors; empty if one fits nowhere.
//
// Args:
//   seconds: [P, N] load of each op at each place.
//   order: [N] in which ops are placed, a topological one.
Ints first_fit(Table<const double> seconds, View<const Int> order, const OpAmounts& ops, double cap_s);

}  // namespace drlpp
