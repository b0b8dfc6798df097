#include "photograph.h"

#include <algorithm>
#include <array>

#include "crop.h"

namespace rsquant::packed {
namespace {

// An image longer than this many times its short side loses its ends first.
constexpr std::int64_t kLongestStrip = 64;

// round(margin / 2), a tie to the even number. margin is 0 or more.
std::int64_t half(std::int64_t margin) { return (margin + margin / 2 % 2) / 2; }

}  // namespace

void evaluation_crop(const Isa& isa, const std::uint8_t* pixels, int height, int width,
                     int resolution, std::uint8_t* out) {
  const std::array<std::int64_t, 2> given = {height, width};
  const std::int64_t longest = kLongestStrip * std::min(height, width);
  const std::int64_t side = static_cast<std::int64_t>(resolution / 0.875);
  std::array<std::int64_t, 2> before, length;
  for (std::size_t i = 0; i < 2; ++i) {
    before[i] = std::max<std::int64_t>(0, given[i] - longest) / 2;
    length[i] = given[i] - 2 * before[i];
  }
  Axis axes[2];
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t resized = side * length[i] / std::min(length[0], length[1]);
    axes[i] = {static_cast<int>(length[i]), static_cast<int>(resized),
               static_cast<int>(half(resized - resolution)), resolution};
  }
  const std::int64_t row = 3 * given[1];
  crop(isa.table->resample, {pixels + before[0] * row + 3 * before[1], row}, axes[0], axes[1], out);
}

void evaluation_square(const Isa& isa, const std::uint8_t* pixels, int height, int width,
                       int resolution, std::uint8_t* out) {
  crop(isa.table->resample, {pixels, std::int64_t{3} * width}, {height, resolution, 0, resolution},
       {width, resolution, 0, resolution}, out);
}

}  // namespace rsquant::packed
