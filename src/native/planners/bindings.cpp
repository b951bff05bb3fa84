// What Python sees of the planners.
#include "border/bindings.h"

#include <pybind11/stl.h>

#include "border/fields.h"
#include "planners/bounds/decision_diagram.h"
#include "planners/bounds/min_cuts.h"

namespace drlpp {

namespace {

void bind_bounds(py::module_& module) {
  module.def(
      "find_sets",
      [](py::handle row, py::handle overlap, py::handle question, const py::function& is_spent) {
        const auto groups = from_python<Row>(row);
        const auto parts = from_python<Overlap>(overlap);
        const auto asked = from_python<Question>(question);
        const auto ask = [&is_spent] {
          py::gil_scoped_acquire locked;
          return is_spent().cast<bool>();
        };
        py::gil_scoped_release unlocked;
        return find_sets(groups, parts, asked, ask);
      },
      py::arg("row"), py::arg("overlap"), py::arg("question"), py::arg("is_spent"));
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

}  // namespace

void bind_planners(py::module_& module) { bind_bounds(module); }

}  // namespace drlpp
