// Checks of data that come from Python. A failed check throws std::invalid_argument, which is a ValueError there.
#pragma once

#include <stdexcept>
#include <string>

#include "border/view.h"

namespace drlpp {

// `length` must be `wanted`.
inline void check_length(const char* name, Int length, Int wanted) {
  if (length != wanted) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(length) + " elements: it needs " +
                                std::to_string(wanted));
  }
}

// Every element must be in low .. high - 1.
template <class Array>
void check_range(const char* name, const Array& values, Int low, Int high) {
  for (auto value : values) {
    if (static_cast<Int>(value) < low || static_cast<Int>(value) >= high) {
      throw std::invalid_argument(std::string(name) + " has the element " + std::to_string(static_cast<Int>(value)) +
                                  ": it must be in " + std::to_string(low) + ".." + std::to_string(high - 1));
    }
  }
}

// `offsets` must rise from 0 to `last`: where each of some parts of an array of `last` elements begins and ends.
template <class Array>
void check_offsets(const char* name, const Array& offsets, Int number, Int last) {
  check_length(name, static_cast<Int>(offsets.size()), number + 1);
  bool rises = offsets[0] == 0 && offsets[number] == last;
  for (Int i = 0; i < number; ++i) rises = rises && offsets[i] <= offsets[i + 1];
  if (!rises) {
    throw std::invalid_argument(std::string(name) + " must rise from 0 to " + std::to_string(last));
  }
}

// Host h has the links link_off[h] .. link_off[h] + sites[h]^2 of `links`.
inline void check_sites(const Ints& sites, const Ints& link_off, Int hosts, Int links) {
  check_length("sites", static_cast<Int>(sites.size()), hosts);
  check_length("link_off", static_cast<Int>(link_off.size()), hosts);
  for (Int h = 0; h < hosts; ++h) {
    if (sites[h] < 0 || link_off[h] < 0 || link_off[h] + sites[h] * sites[h] > links) {
      throw std::invalid_argument("link_off and sites of host " + std::to_string(h) + " lead out of the links");
    }
  }
}

}  // namespace drlpp
