// A queue of events, the earliest first: a binary heap of indices into a list of times.
#pragma once

#include <vector>

#include "border/view.h"

namespace drlpp {

// Events in the order of `(when[event], event)`.
class EventQueue {
 public:
  void clear() { heap_.clear(); }
  bool empty() const { return heap_.empty(); }
  Int first() const { return heap_.front(); }

  void push(const Reals& when, Int event) {
    Int i = size_of(heap_);
    heap_.push_back(event);
    while (i > 0) {
      const Int parent = (i - 1) >> 1, other = heap_[parent];
      if (before(when, other, event)) break;
      heap_[i] = other;
      i = parent;
    }
    heap_[i] = event;
  }

  // Puts `event` in the place of the first event.
  void replace_first(const Reals& when, Int event) {
    const Int size = size_of(heap_);
    Int i = 0;
    while (true) {
      Int child = 2 * i + 1;
      if (child >= size) break;
      if (child + 1 < size && before(when, heap_[child + 1], heap_[child])) ++child;
      if (before(when, event, heap_[child])) break;
      heap_[i] = heap_[child];
      i = child;
    }
    heap_[i] = event;
  }

  void pop(const Reals& when) {
    const Int last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) replace_first(when, last);
  }

 private:
  static bool before(const Reals& when, Int a, Int b) { return when[a] < when[b] || (when[a] == when[b] && a < b); }

  Ints heap_;
};

}  // namespace drlpp
