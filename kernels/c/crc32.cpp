// CRC-32 as zlib has it (polynomial 0xEDB88320), eight bytes at a time: table[k][b] is what byte b
// contributes with k bytes behind it.

#include <array>
#include <bit>
#include <cstring>

#include "container.h"

namespace rsquant::packed {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian");

using Table = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Table make_table() {
  Table table = {};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    table[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = table[k - 1][byte];
      table[k][byte] = before >> 8 ^ table[0][before & 255];
    }
  }
  return table;
}

constexpr Table kTable = make_table();

}  // namespace

std::uint32_t crc32(const std::uint8_t* data, std::size_t bytes) {
  std::uint32_t crc = ~0u;
  for (; bytes >= 8; data += 8, bytes -= 8) {
    std::uint32_t low, high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = kTable[7][low & 255] ^ kTable[6][low >> 8 & 255] ^ kTable[5][low >> 16 & 255] ^
          kTable[4][low >> 24] ^ kTable[3][high & 255] ^ kTable[2][high >> 8 & 255] ^
          kTable[1][high >> 16 & 255] ^ kTable[0][high >> 24];
  }
  for (; bytes > 0; ++data, --bytes) crc = crc >> 8 ^ kTable[0][(crc ^ *data) & 255];
  return ~crc;
}

}  // namespace rsquant::packed
