// What a packed file says a network does: typed, every field in its range. Whether fields and
// tensors agree with each other is the Checker's to say.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "container.h"
#include "fields.h"
#include "settings.h"

namespace rsquant::packed {

// Versions of the format since which it has: any packed file; convolutions of floats; padding that
// differs from side to side; offsets of weights and thresholds of quantizers; dilated max-pooling;
// bytes and integer epilogues; several settings of bits; cascades; several widths; maps of logits
// at the end, and int8 weights of any convolution but of bytes; resized bytes, and int8 weights of
// bytes.
constexpr int kVersion = 8;
constexpr int kFloatInputs = 2, kAnyPadding = 3, kOffsets = 4, kAnyPooling = 4, kIntegers = 5,
              kSeveralBits = 6, kCascade = 6, kWidths = 7, kMaps = 7, kByteMaps = 8;

constexpr int kMostLevel = 127;
constexpr int kMostBits = 4;
constexpr int kMostChannels = 65536;
constexpr int kMostKernel = 31;
constexpr int kMostSteps = 10000;
constexpr int kMostResolutions = 64;
constexpr int kMostSide = 65536;
constexpr int kMostSettings = 64;  // widths times bits: each is checked, and takes time
constexpr int kLastValue = 2 * kMostSteps;
constexpr int kImageChannels = 4;
constexpr int kImageLimit = 255;
constexpr int kImageWeight = (1 << 15) - 1;  // of the first convolution

struct Network {
  int wbits, abits;
  std::vector<int> resolutions;  // largest first
  int num_classes;
  std::vector<std::string> classes;  // safe to show; or none
  int stride;                        // pixels of the image per pixel of the last map
  std::optional<int> zero;           // of an integer network, the pixel that stands for 0
};

// Activation levels scale * sum of a subset of `basis`, stored as bytes level + zero.
struct Quantizer {
  int bits;
  std::vector<int> basis;
  double scale;
  std::optional<std::vector<double>> own;  // L - 1 thresholds, in units of the values quantized

  int zero() const;                         // the byte of the value 0
  int limit() const;                        // the largest byte
  std::vector<int> levels() const;          // (L,), ascending
  std::vector<std::uint8_t> codes() const;  // (L,), bytes of the levels
  std::vector<double> thresholds() const;   // (L - 1,)
};

// Bits beside the network's own.
struct BitsSpec {
  int wbits, abits;
  std::vector<Quantizer> quantizers;
};

// Numbers of channels by the name of their field, where a step has fewer of them.
using Fewer = std::map<std::string, int>;

// A narrower network than the file's.
struct WidthSpec {
  double width;                           // below 1
  std::map<std::string, Fewer> channels;  // by name of a step
};

class Op;
using Steps = std::vector<std::shared_ptr<const Op>>;

struct Plan {
  int version;
  Network network;
  std::vector<Quantizer> quantizers;
  std::shared_ptr<const Steps> steps;
  std::vector<BitsSpec> bits;     // beside the network's own
  std::vector<WidthSpec> widths;  // beside all channels, the widest first
  bool cascade;                   // whether it has one
};

// Throws FieldError, naming the field that is missing, unknown or out of range, or
// UnsupportedOperation.
Plan read_plan(const Json& metadata);

// As tables of a width are named: "0.5".
std::string width_name(double width);

}  // namespace rsquant::packed
