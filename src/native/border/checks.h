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

}  // namespace drlpp
