// What Python sees of the planners.
#include "border/bindings.h"

#include <pybind11/stl.h>

#include <memory>

#include "border/fields.h"
#include "border/owned_arrays.h"
#include "planners/baselines/first_fit.h"
#include "planners/bounds/decision_diagram.h"
#include "planners/bounds/min_cuts.h"
#include "planners/consecutive/split_program.h"
#include "planners/consecutive/split_states.h"
#include "planners/local_search/load_annealing.h"
#include "planners/local_search/stage_annealing.h"
#include "planners/pipedream/level_table.h"

namespace drlpp {

namespace {

void bind_bounds(py::module_& module) {
  py::class_<SetSearch>(module, "SetSearch")
      .def(py::init([](py::handle row, py::handle overlap, py::handle question) {
             const auto groups = from_python<Row>(row);
             const auto parts = from_python<Overlap>(overlap);
             const auto asked = from_python<Question>(question);
             py::gil_scoped_release unlocked;
             return std::make_unique<SetSearch>(groups, parts, asked);
           }),
           py::arg("row"), py::arg("overlap"), py::arg("question"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>())
      .def("advance", &SetSearch::advance, py::call_guard<py::gil_scoped_release>())
      .def("ways", &SetSearch::ways);
  module.def(
      "inseparable",
      [](py::handle hypergraph, double threshold) {
        const auto graph = from_python<Hypergraph>(hypergraph);
        Ints label;
        {
          py::gil_scoped_release unlocked;
          label = inseparable(graph, threshold);
        }
        return as_array(std::move(label));
      },
      py::arg("hypergraph"), py::arg("threshold"));
}

py::dict as_fields(BoundaryAmounts&& amounts) {
  py::dict fields;
  fields["received"] = as_table(std::move(amounts.received));
  fields["sent"] = as_table(std::move(amounts.sent));
  return fields;
}

py::array_t<Int> place_ops(py::handle seconds, py::handle order, py::handle ops, double cap_s) {
  Table<const double> at_place;
  View<const Int> in_turn;
  read("seconds", seconds, at_place);
  read("order", order, in_turn);
  const auto amounts = from_python<OpAmounts>(ops);
  Ints place;
  {
    py::gil_scoped_release unlocked;
    place = first_fit(at_place, in_turn, amounts, cap_s);
  }
  return as_array(std::move(place));
}

py::dict along_order(py::handle ops, py::handle order, py::handle ends) {
  const auto held = from_python<OpAmounts>(ops);
  View<const Int> in_turn, block_ends;
  read("order", order, in_turn);
  read("ends", ends, block_ends);
  BoundaryAmounts amounts;
  {
    py::gil_scoped_release unlocked;
    amounts = amounts_along_order(held, in_turn, block_ends);
  }
  return as_fields(std::move(amounts));
}

py::dict over_downsets(py::handle ops, py::handle members) {
  const auto held = from_python<OpAmounts>(ops);
  Table<const bool> downsets;
  read("members", members, downsets);
  BoundaryAmounts amounts;
  {
    py::gil_scoped_release unlocked;
    amounts = amounts_over_downsets(held, downsets);
  }
  return as_fields(std::move(amounts));
}

void fill_split_rows(py::handle table, py::handle model, py::handle devices, py::handle limits, Int start, Int stop) {
  const auto rows = from_python<SplitTable>(table);
  const auto states = from_python<SplitModel>(model);
  const auto steps = from_python<DeviceStates>(devices);
  const auto kept = from_python<SplitLimits>(limits);
  py::gil_scoped_release unlocked;
  fill_rows(rows, states, steps, kept, start, stop);
}

py::dict fill_pipedream_level(py::handle level) {
  const auto asked = from_python<PipeDreamLevel>(level);
  LevelTable table;
  {
    py::gil_scoped_release unlocked;
    table = fill_level(asked);
  }
  py::dict fields;
  fields["best_s"] = as_cube(std::move(table.best_s));
  fields["split"] = as_cube(std::move(table.split));
  fields["replicas"] = as_cube(std::move(table.replicas));
  return fields;
}

py::dict anneal_slots(py::handle ops, py::handle slots, py::handle labels, py::handle cooling, py::handle rules) {
  const auto amounts = from_python<OpAmounts>(ops);
  const auto places = from_python<Slots>(slots);
  const auto how = from_python<Cooling>(cooling);
  const auto allowed = from_python<StageRules>(rules);
  Ints start;
  read("labels", labels, start);
  AnnealedLabels found;
  {
    py::gil_scoped_release unlocked;
    found = anneal_stages(amounts, places, std::move(start), how, allowed);
  }
  return to_python(std::move(found));
}

py::array_t<Int> anneal_exact_loads(IncrementalLoads& loads, py::handle ops, py::handle cooling) {
  const auto amounts = from_python<OpAmounts>(ops);
  const auto how = from_python<Cooling>(cooling);
  Ints labels;
  {
    py::gil_scoped_release unlocked;
    labels = anneal_loads(loads, amounts, how);
  }
  return as_array(std::move(labels));
}

}  // namespace

void bind_planners(py::module_& module) {
  bind_bounds(module);
  module.def("first_fit", &place_ops, py::arg("seconds"), py::arg("order"), py::arg("ops"), py::arg("cap_s"));
  module.def("amounts_along_order", &along_order, py::arg("ops"), py::arg("order"), py::arg("ends"));
  module.def("amounts_over_downsets", &over_downsets, py::arg("ops"), py::arg("members"));
  module.def("fill_split_rows", &fill_split_rows, py::arg("table"), py::arg("model"), py::arg("devices"),
             py::arg("limits"), py::arg("start"), py::arg("stop"));
  module.def("fill_pipedream_level", &fill_pipedream_level, py::arg("level"));
  module.def("anneal_stages", &anneal_slots, py::arg("ops"), py::arg("slots"), py::arg("labels"),
             py::arg("cooling"), py::arg("rules"));
  module.def("anneal_loads", &anneal_exact_loads, py::arg("loads"), py::arg("ops"), py::arg("cooling"));
}

}  // namespace drlpp
