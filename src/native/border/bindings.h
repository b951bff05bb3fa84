// The rooms of the library; each tells Python of its functions.
#pragma once

#include <pybind11/pybind11.h>

namespace drlpp {

void bind_cost(pybind11::module_& module);
void bind_schedules(pybind11::module_& module);
void bind_sim(pybind11::module_& module);
void bind_planners(pybind11::module_& module);
void bind_agent(pybind11::module_& module);

}  // namespace drlpp
