// One more layer of the decision diagram: each state takes every set of devices for the next group of the row.
#pragma once

#include "planners/bounds/completion_bound.h"
#include "planners/bounds/diagram_states.h"
#include "planners/bounds/group_row.h"

namespace drlpp {

// What all layers of a diagram share.
struct Diagram {
  const Row& row;
  const Overlap& overlap;
  const CompletionBound& bound;
  Cube<const double> between;  // `least_between`
  Cube<const double> to_come;  // [G, R + 1, G] `CompletionBound::to_come` with room for everything
  double limit_s;              // largest load of a device
  double sum_limit_s;          // largest weighted sum of all loads
  Coarsening how;              // ends layers that are too wide
};

class LayerBuilder {
 public:
  // Args:
  //     group: of the row.
  //     num_before: states of the layer before.
  //     cell: first width of a cell of loads.
  LayerBuilder(const Diagram& diagram, Int group, Int num_before, double cell);

  // Adds what comes after state i of the layer before.
  void extend(const States& before, Int i);

  // At most `Coarsening::width` of the states, without those that others are better than.
  States best();

 private:
  // The devices of a class that the group takes, or those that it leaves.
  struct Half {
    bool is_taken;
    Int size;
    double load;   // of each, after the group
    bool is_dead;  // they can run no group any more
    Int part;      // of each, after the group
  };
  struct Halves {
    Half taken, left;
  };
  // What devices move between a set of the layer before and the group's set.
  struct Moves {
    double in_both = 0.0, in_new_only = 0.0, in_old_only = 0.0;
  };
  // A choice of devices for the group, and what follows from it.
  struct Choice {
    Int replicas;
    bool same_as_main;  // they are the devices of the main group before
    bool still_held;    // what was held before still is, where this group is not held itself
    double total;       // see `Sums`
    double inside;      // weighted load by what was taken out of the row before the group
    double loads;       // weighted sum of all loads
    double wasted;      // weighted load that devices could take which can run no group any more
    double sum;         // least weighted sum of all loads, without what is to come
    Int main_size;      // devices of the last main group, after the choice
    Int last_of_run;    // last group that these can go on to
  };

  void start_choices(const States& before, Int i);
  bool next_choice();
  bool is_same_set(bool (*is_inside)(Int part)) const;
  Moves moves(double seconds, Int old_size, Int new_size, bool same) const;
  bool add_loads(Choice& choice);
  bool find_dead(Choice& choice);
  void set_parts(const Choice& choice);
  void sort_devices();
  void insert(Half half, Int first_origin, Int begin, Int& filled);
  void put(Sums sums, const Choice& choice, Int parent);
  double closer_sum(const Choice& choice);
  double fullest_main() const;

  const Diagram& diagram_;
  const Row& row_;
  const Int group_;
  const bool is_satellite_;
  const Hold hold_;
  const bool is_last_, is_close_;
  const Int space_;  // states that there may be before they are joined or dropped
  double cell_;
  States states_;
  StateTable table_;
  // The state that is gone through, and the choice.
  std::vector<DeviceClass> classes_;
  std::vector<Halves> halves_;  // of each class
  Ints most_taken_;             // of each class, devices that may be taken
  Int size_of_main_ = 0, size_of_held_ = 0;
  Sums before_{};
  // The state that is made.
  Reals load_;
  Ints parts_, origin_;
  std::vector<char> chosen_;
  // What is to come after it.
  Reals room_;
  OwnedTable<double> start_;
  OwnedCube<double> ahead_;
};

}  // namespace drlpp
