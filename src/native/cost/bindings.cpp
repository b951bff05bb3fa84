// What Python sees of the prices.
#include "border/bindings.h"
#include "border/fields.h"
#include "cost/device_loads.h"
#include "cost/placed_stages.h"

namespace drlpp {

void bind_cost(py::module_& module) {
  module.def("device_loads", [](py::handle placed) {
    const auto p = from_python<PlacedStages>(placed);
    Reals load;
    {
      py::gil_scoped_release unlocked;
      device_loads(p, load);
    }
    return as_array(std::move(load));
  }, py::arg("placed"));
}

}  // namespace drlpp
