// Hash tables with open addressing: the number of slots is a power of two, and what does not get its own slot takes the
// next free one. The slots belong to the caller, who also says when a slot is the right one.
#pragma once

#include <cstdint>

#include "border/view.h"

namespace drlpp {

// Number of slots, a power of two, of a table with at least so many.
inline Int table_slots(Int least) {
  Int slots = 1;
  while (slots < least) slots *= 2;
  return slots;
}

// The first slot from the hash's own one on that `is_right`: the wanted entry's, or a free one. There must be one.
template <class IsRight>
Int find_slot(Int slots, std::uint64_t hash, const IsRight& is_right) {
  const Int mask = slots - 1;
  Int slot = static_cast<Int>(hash & static_cast<std::uint64_t>(mask));
  while (!is_right(slot)) slot = (slot + 1) & mask;
  return slot;
}

// The FNV-1a hash of a sequence of numbers: start with `hash_start`, and add one number after another.
constexpr std::uint64_t hash_start = 1469598103934665603u;
inline std::uint64_t hash_step(std::uint64_t hash, std::uint64_t number) { return (hash ^ number) * 1099511628211u; }

}  // namespace drlpp
