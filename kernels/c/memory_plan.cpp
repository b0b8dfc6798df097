#include "memory_plan.h"

#include <algorithm>
#include <numeric>

namespace rsquant::packed {
namespace {

constexpr std::size_t kAlign = 64;  // a vector, and a line of the caches

// A place, for as long as a value in it is needed.
struct Place {
  std::size_t size;
  int first, last;
  std::size_t offset = 0;

  bool meets(const Place& other) const { return first <= other.last && other.first <= last; }
};

}  // namespace

MemoryPlan memory_plan(Program& program, int result) {
  const std::vector<std::size_t> sizes = program.value_sizes();
  const std::size_t count = sizes.size();
  const auto value = [&](std::size_t i) -> const Value& {
    return program.value_at(static_cast<int>(i));
  };
  std::vector<Place> places;
  std::vector<std::size_t> place_of;
  for (std::size_t i = 0; i < count; ++i) {
    const Value& v = value(i);
    const int last =
        static_cast<int>(i) == result ? static_cast<int>(program.step_count()) : v.read;
    // A residual sum takes the place of the value it adds to, where nothing else reads that
    // afterwards.
    const std::size_t home = static_cast<std::size_t>(std::max(v.home, 0));
    if (v.home >= 0 && value(home).read == v.written && sizes[home] == sizes[i]) {
      place_of.push_back(place_of[home]);
      places[place_of[i]].last = std::max(places[place_of[i]].last, last);
      continue;
    }
    place_of.push_back(places.size());
    places.push_back({(sizes[i] + kAlign - 1) / kAlign * kAlign, v.written, last});
  }
  // Largest first: small ones fill the gaps.
  std::vector<std::size_t> order(places.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return places[a].size > places[b].size; });
  std::vector<const Place*> placed;  // by offset
  std::size_t total = 0;
  for (const std::size_t number : order) {
    Place& place = places[number];
    for (const Place* other : placed) {
      if (!place.meets(*other)) continue;
      if (other->offset >= place.offset + place.size) break;
      place.offset = std::max(place.offset, other->offset + other->size);
    }
    total = std::max(total, place.offset + place.size);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), &place,
                         [](const Place* a, const Place* b) { return a->offset < b->offset; }),
        &place);
  }
  MemoryPlan plan = {{}, total};
  for (std::size_t i = 0; i < count; ++i) plan.offsets.push_back(places[place_of[i]].offset);
  return plan;
}

}  // namespace rsquant::packed
