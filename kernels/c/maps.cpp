#include "maps.h"

#include <algorithm>
#include <vector>

#include "resampling.h"

namespace rsquant::packed {
namespace {

// One map at another size: first wider, as there are fewer rows then. Every product and sum is
// rounded by itself.
class Resizing {
 public:
  Resizing(Pair map, Pair size)
      : map_(map),
        rows_(linear_taps(map[0], size[0], std::nullopt, false)),
        columns_(linear_taps(map[1], size[1], std::nullopt, false)),
        width_(static_cast<std::size_t>(size[1])),
        wide_(static_cast<std::size_t>(map[0]) * width_) {}

  // Takes a map, whose rows `row` then gives.
  void widen(const float* map) {
    for (std::size_t y = 0; y < static_cast<std::size_t>(map_[0]); ++y) {
      const float* from = map + y * static_cast<std::size_t>(map_[1]);
      float* to = wide_.data() + y * width_;
      for (std::size_t x = 0; x < width_; ++x) {
        to[x] = from[columns_.pixels[2 * x]] * columns_.weights[2 * x];
        to[x] += from[columns_.pixels[2 * x + 1]] * columns_.weights[2 * x + 1];
      }
    }
  }

  void row(int y, float* to) const {
    const std::size_t at = 2 * static_cast<std::size_t>(y);
    const float* first = wide_.data() + static_cast<std::size_t>(rows_.pixels[at]) * width_;
    const float* second = wide_.data() + static_cast<std::size_t>(rows_.pixels[at + 1]) * width_;
    const float upper = rows_.weights[at], lower = rows_.weights[at + 1];
    for (std::size_t x = 0; x < width_; ++x) to[x] = first[x] * upper + second[x] * lower;
  }

 private:
  Pair map_;
  Taps rows_, columns_;
  std::size_t width_;
  std::vector<float> wide_;
};

std::size_t pixels_of(Pair size) {
  return static_cast<std::size_t>(size[0]) * static_cast<std::size_t>(size[1]);
}

}  // namespace

void resized_maps(const float* maps, int classes, Pair map, Pair size, float* out) {
  const std::size_t count = static_cast<std::size_t>(classes);
  if (map == size) {
    std::copy(maps, maps + count * pixels_of(map), out);
    return;
  }
  Resizing resizing(map, size);
  for (std::size_t c = 0; c < count; ++c) {
    resizing.widen(maps + c * pixels_of(map));
    for (int y = 0; y < size[0]; ++y) {
      resizing.row(y, out);
      out += size[1];
    }
  }
}

void likeliest_classes(const float* maps, int classes, Pair map, Pair size, std::uint16_t* out) {
  Resizing resizing(map, size);
  const std::size_t width = static_cast<std::size_t>(size[1]);
  std::vector<float> best(pixels_of(size)), row(width);
  std::fill(out, out + pixels_of(size), std::uint16_t{0});
  for (int c = 0; c < classes; ++c) {
    resizing.widen(maps + static_cast<std::size_t>(c) * pixels_of(map));
    for (int y = 0; y < size[0]; ++y) {
      const std::size_t at = static_cast<std::size_t>(y) * width;
      resizing.row(y, c == 0 ? best.data() + at : row.data());
      for (std::size_t x = 0; x < width && c > 0; ++x) {
        if (row[x] > best[at + x]) {
          best[at + x] = row[x];
          out[at + x] = static_cast<std::uint16_t>(c);
        }
      }
    }
  }
}

}  // namespace rsquant::packed
