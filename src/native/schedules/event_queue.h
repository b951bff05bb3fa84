// A queue of events, the earliest first: a binary heap.
#pragma once

#include <vector>

#include "border/view.h"

namespace drlpp {

// Events in the order of `(when, event)`.
class EventQueue {
 public:
  void clear() { heap_.clear(); }
  bool empty() const { return heap_.empty(); }
  Int first() const { return heap_.front().event; }
  double first_s() const { return heap_.front().when; }

  void push(double when, Int event) {
    const Entry entry{when, event};
    std::size_t i = heap_.size();
    heap_.push_back(entry);
    while (i > 0) {
      const std::size_t parent = (i - 1) / 2;
      if (before(heap_[parent], entry)) break;
      heap_[i] = heap_[parent];
      i = parent;
    }
    heap_[i] = entry;
  }

  // Puts an event in the place of the first one.
  void replace_first(double when, Int event) { settle({when, event}); }

  void pop() {
    const Entry last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) settle(last);
  }

 private:
  struct Entry {
    double when;
    Int event;
  };

  static bool before(const Entry& a, const Entry& b) {
    return a.when < b.when || (a.when == b.when && a.event < b.event);
  }

  void settle(const Entry& entry) {
    const std::size_t size = heap_.size();
    std::size_t i = 0;
    while (true) {
      std::size_t child = 2 * i + 1;
      if (child >= size) break;
      if (child + 1 < size && before(heap_[child + 1], heap_[child])) ++child;
      if (before(entry, heap_[child])) break;
      heap_[i] = heap_[child];
      i = child;
    }
    heap_[i] = entry;
  }

  std::vector<Entry> heap_;
};

}  // namespace drlpp
