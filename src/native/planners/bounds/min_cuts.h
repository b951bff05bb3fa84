// Vertices of a weighted hypergraph that no light cut separates; see `min_cuts.py`.
#pragma once

#include "border/checks.h"
#include "border/view.h"

namespace drlpp {

// N vertices and E hyperedges.
struct Hypergraph {
  Int num_vertices = 0;
  View<const Int> pointer;    // [E + 1] where the pins of each hyperedge begin
  View<const Int> pins;       // [sum] vertices of each hyperedge; they may repeat
  View<const double> weight;  // [E] what a cut through a hyperedge weighs, however many parts it falls into

  Int num_edges() const { return weight.size(); }

  template <class Visitor>
  void visit(Visitor& field) {
    field("num_vertices", num_vertices);
    field("pointer", pointer);
    field("pins", pins);
    field("weight", weight);
  }

  void check() const {
    check_offsets("pointer", pointer, num_edges(), pins.size());
    check_range("pins", pins, 0, num_vertices);
  }
};

// [N] a label per vertex; vertices of equal label are separated only by cuts above the threshold.
Ints inseparable(const Hypergraph& graph, double threshold);

}  // namespace drlpp
