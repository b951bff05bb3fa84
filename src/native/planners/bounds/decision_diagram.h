// Which set of devices runs each group of a row, so that no load exceeds a bound; see `decision_diagram.py`.
#pragma once

#include <optional>
#include <vector>

#include "border/owned.h"
#include "planners/bounds/completion_bound.h"
#include "planners/bounds/diagram_layer.h"
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

// The search for ways to give each group a set of devices, in small pieces, so that the caller can end it.
class SetSearch {
 public:
  // What the row and the overlap look at must outlive the search.
  SetSearch(const Row& row, const Overlap& overlap, const Question& question);
  SetSearch(const SetSearch&) = delete;
  SetSearch& operator=(const SetSearch&) = delete;

  // Goes through some more states; true when there are no more.
  bool advance();
  // The ways, after the last `advance`; empty if there is none.
  std::vector<Way> ways() const;

 private:
  void begin_layer();

  const Row row_;
  const Overlap overlap_;
  const Question question_;
  OwnedCube<double> between_;
  const CompletionBound bound_;
  OwnedCube<double> to_come_;
  const Diagram diagram_;
  std::vector<States> layers_;  // the one before the row, and those of the groups
  std::optional<LayerBuilder> builder_;
  Int next_ = 0;  // state of the last layer
};

}  // namespace drlpp
