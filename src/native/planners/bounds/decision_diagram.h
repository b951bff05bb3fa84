// Which set of devices runs each group of a row, so that no load exceeds a bound; see `decision_diagram.py`.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "planners/bounds/group_row.h"

namespace drlpp {

// What is asked about a row.
struct Question {
  double bound_s;    // largest load of a device
  double tolerance;  // part of the bound that a load may exceed it by
  double capacity;   // weighted seconds that all devices have in a second
  Int width;         // most states of a layer
  Int most_ways;     // ways to return, those with the smallest largest load first
  bool relaxed;      // states that are too many are joined; if not, they are dropped

  template <class Visitor>
  void visit(Visitor& field) {
    field("bound_s", bound_s);
    field("tolerance", tolerance);
    field("capacity", capacity);
    field("width", width);
    field("most_ways", most_ways);
    field("relaxed", relaxed);
  }
};

// A set of devices, numbered by type, for each group.
using Way = std::vector<Ints>;

// Ways to give each group a set of devices; none: there is no way; nothing: the budget was spent before the answer.
std::optional<std::vector<Way>> find_sets(const Row& row, const Overlap& overlap, const Question& question,
                                          const std::function<bool()>& is_spent);

}  // namespace drlpp
