#include "planners/bounds/min_cuts.h"

#include <algorithm>
#include <numeric>

namespace drlpp {

namespace {

// Lists of numbers one after another: list i is `items` from offsets[i] to offsets[i + 1].
struct Lists {
  Ints offsets, items;

  View<const Int> operator[](Int i) const { return view(items).part(offsets[i], offsets[i + 1]); }
};

// The numbers 0, 1, ... of the elements that have each key, in order.
Lists by_key(Int num_keys, View<const Int> keys) {
  Lists lists{Ints(num_keys + 1, 0), Ints(keys.size())};
  for (const Int key : keys) ++lists.offsets[key + 1];
  std::partial_sum(lists.offsets.begin(), lists.offsets.end(), lists.offsets.begin());
  Ints end(lists.offsets.begin(), lists.offsets.end() - 1);
  for (Int i = 0; i < keys.size(); ++i) lists.items[end[keys[i]]++] = i;
  return lists;
}

// Joins vertices until no maximum-adjacency order joins any more.
class Joining {
 public:
  Joining(const Hypergraph& graph, double threshold);

  // Joins what one order shows to be inseparable, or sets vertices aside; false: nothing changed.
  bool advance();
  Ints labels();

 private:
  View<const Int> pins(Int e) const { return graph_.pins.part(graph_.pointer[e], graph_.pointer[e + 1]); }
  Int root(Int i);
  void set_degrees();
  bool set_aside();
  bool join_along_order(const Lists& members);
  void add_hyperedges(Int vertex, const Lists& members);

  const Hypergraph& graph_;
  const double threshold_;
  Lists edges_of_;  // hyperedges of each vertex
  Ints parent_;     // a forest; vertices with one root are inseparable
  Ints root_;       // [N] as of the beginning of the order
  Reals key_;       // weight that joins a root to those before it in the order
  Reals degree_;    // weight of the hyperedges that join a root to another one
  Ints stamp_;      // hyperedge that a root was last counted for
  std::vector<char> is_aside_, is_chosen_, is_reached_;
};

Joining::Joining(const Hypergraph& graph, double threshold)
    : graph_(graph),
      threshold_(threshold),
      parent_(graph.num_vertices),
      root_(graph.num_vertices),
      key_(graph.num_vertices),
      degree_(graph.num_vertices),
      stamp_(graph.num_vertices, -1),
      is_aside_(graph.num_vertices, 0),
      is_chosen_(graph.num_vertices, 0),
      is_reached_(graph.num_edges(), 0) {
  edges_of_ = by_key(graph.num_vertices, graph.pins);
  Int edge = 0;
  Ints edge_of_pin(graph.pins.size());
  for (Int pin = 0; pin < graph.pins.size(); ++pin) {
    while (pin >= graph.pointer[edge + 1]) ++edge;
    edge_of_pin[pin] = edge;
  }
  for (Int& item : edges_of_.items) item = edge_of_pin[item];
  std::iota(parent_.begin(), parent_.end(), 0);
  for (Int e = 0; e < graph.num_edges(); ++e) {
    if (!(graph.weight[e] > threshold)) continue;
    for (const Int vertex : pins(e)) {
      const Int joined = root(vertex);
      parent_[joined] = root(pins(e)[0]);
    }
  }
}

Int Joining::root(Int i) {
  while (parent_[i] != i) {
    parent_[i] = parent_[parent_[i]];
    i = parent_[i];
  }
  return i;
}

Ints Joining::labels() {
  Ints out(parent_.size());
  for (Int i = 0; i < size_of(out); ++i) out[i] = root(i);
  return out;
}

bool Joining::advance() {
  root_ = labels();
  set_degrees();
  if (set_aside()) return true;
  return join_along_order(by_key(graph_.num_vertices, cview(root_)));
}

void Joining::set_degrees() {
  std::fill(degree_.begin(), degree_.end(), 0.0);
  for (Int e = 0; e < graph_.num_edges(); ++e) {
    Int first = -1;
    bool joins = false;
    for (const Int vertex : pins(e)) {
      const Int r = root_[vertex];
      if (is_aside_[r]) continue;
      if (first < 0) first = r;
      joins = joins || r != first;
    }
    if (!joins) continue;
    for (const Int vertex : pins(e)) {
      const Int r = root_[vertex];
      if (stamp_[r] == e) continue;
      stamp_[r] = e;
      degree_[r] += graph_.weight[e];
    }
  }
  std::fill(stamp_.begin(), stamp_.end(), -1);
}

// Sets roots with little weight aside, and chooses what the order leaves out; whether there were new ones.
bool Joining::set_aside() {
  bool changed = false;
  for (Int r = 0; r < graph_.num_vertices; ++r) {
    if (root_[r] == r && !is_aside_[r] && degree_[r] <= threshold_) is_aside_[r] = changed = true;
    is_chosen_[r] = root_[r] != r || is_aside_[r];
  }
  return changed;
}

bool Joining::join_along_order(const Lists& members) {
  std::fill(key_.begin(), key_.end(), 0.0);
  std::fill(is_reached_.begin(), is_reached_.end(), 0);
  bool changed = false;
  for (Int previous = -1;;) {
    Int best = -1;
    for (Int r = 0; r < graph_.num_vertices; ++r) {
      if (!is_chosen_[r] && (best < 0 || key_[r] > key_[best])) best = r;
    }
    if (best < 0) break;
    is_chosen_[best] = 1;
    if (previous >= 0 && key_[best] > threshold_) {
      const Int joined = root(best);
      parent_[joined] = root(previous);
      changed = true;
    }
    previous = best;
    add_hyperedges(best, members);
  }
  std::fill(stamp_.begin(), stamp_.end(), -1);
  return changed;
}

// Adds the hyperedges that a chosen root is the first to reach to the keys of the roots that they join.
void Joining::add_hyperedges(Int vertex, const Lists& members) {
  for (const Int member : members[vertex]) {
    for (const Int e : edges_of_[member]) {
      if (is_reached_[e]) continue;
      is_reached_[e] = 1;
      for (const Int pin : pins(e)) {
        const Int r = root_[pin];
        if (is_chosen_[r] || stamp_[r] == e) continue;
        stamp_[r] = e;
        key_[r] += graph_.weight[e];
      }
    }
  }
}

}  // namespace

Ints inseparable(const Hypergraph& graph, double threshold) {
  Joining joining(graph, threshold);
  while (joining.advance()) {
  }
  return joining.labels();
}

}  // namespace drlpp
