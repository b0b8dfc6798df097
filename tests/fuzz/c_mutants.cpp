#include "c_mutants.h"

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <stdexcept>

#include "container.h"

namespace rsquant::fuzz {
namespace {

using packed::Items;
using packed::Json;
using packed::Large;
using packed::Members;

using Random = std::mt19937_64;

std::size_t below(Random& random, std::size_t count) { return random() % count; }

template <class List>
auto& one_of(Random& random, List& list) {
  return list[below(random, std::size(list))];
}

void write_text(const std::string& text, std::string& out) {
  constexpr char kDigits[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\', out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00", out += kDigits[c >> 4], out += kDigits[c & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

template <class Number>
void write_number(Number number, std::string& out) {
  char text[64];
  const char* end = std::to_chars(text, std::end(text), number).ptr;
  out.append(text, static_cast<std::size_t>(end - text));
}

// Numbers of more than 64 bits as floats: no seed has one.
void write_json(const Json& json, std::string& out) {
  if (const bool* flag = json.as<bool>()) {
    out += *flag ? "true" : "false";
  } else if (const std::int64_t* number = json.as<std::int64_t>()) {
    write_number(*number, out);
  } else if (const double* real = json.as<double>()) {
    write_number(*real, out);
  } else if (const Large* large = json.as<Large>()) {
    write_number(large->nearest, out);
  } else if (const std::string* text = json.as<std::string>()) {
    write_text(*text, out);
  } else if (const Items* items = json.as<Items>()) {
    out += '[';
    for (const Json& item : *items) {
      if (&item != items->data()) out += ',';
      write_json(item, out);
    }
    out += ']';
  } else if (const Members* members = json.as<Members>()) {
    out += '{';
    for (const auto& member : *members) {
      if (&member != members->data()) out += ',';
      write_text(member.first, out);
      out += ':';
      write_json(member.second, out);
    }
    out += '}';
  } else {
    out += "null";
  }
}

Json& member(Json& json, std::string_view name) {
  if (Members* members = std::get_if<Members>(&json.value)) {
    for (auto& [own, value] : *members) {
      if (own == name) return value;
    }
  }
  throw std::runtime_error("not a packed file");
}

// A value, and the name of the field that it is or that its list is.
struct Place {
  std::string_view name;
  Json* value;
};

void add_places(std::string_view name, Json& json, std::vector<Place>& scalars,
                std::vector<Place>& lists) {
  if (Items* items = std::get_if<Items>(&json.value)) {
    lists.push_back({name, &json});
    for (Json& item : *items) add_places(name, item, scalars, lists);
  } else if (Members* members = std::get_if<Members>(&json.value)) {
    lists.push_back({name, &json});
    for (auto& [own, value] : *members) add_places(own, value, scalars, lists);
  } else {
    scalars.push_back({name, &json});
  }
}

std::int64_t another(std::int64_t value, Random& random) {
  constexpr std::int64_t kOdd[] = {-1, 0, 31, 127, 128, 255, 4096, 65536, 65537, 0x7FFFFFFF};
  switch (below(random, 8)) {
    case 0:
      return one_of(random, kOdd);
    case 1:
      return static_cast<std::int64_t>(below(random, 40));
    case 2:
      return value / 2;
    case 3:
      return static_cast<std::int64_t>(2 * static_cast<std::uint64_t>(value));
    default:
      return value + (below(random, 2) != 0 ? 1 : -1);
  }
}

// One of `odd` in one of `kinds` cases, the negative in another, else near by some powers of two.
template <class F, std::size_t N>
F another_of(F value, const F (&odd)[N], std::size_t kinds, Random& random) {
  switch (below(random, kinds)) {
    case 0:
      return one_of(random, odd);
    case 1:
      return -value;
    default:
      return std::ldexp(value, static_cast<int>(below(random, 21)) - 10);
  }
}

double another(double value, Random& random) {
  constexpr double kOdd[] = {0.0, 1.0, -1.0, 0.5, 1e30, -1e30, 1e-30, 1e300};
  return another_of(value, kOdd, 6, random);
}

// Mostly a value of the same kind.
Json another(const Place& place, const std::vector<Place>& scalars, Random& random) {
  if (below(random, 4) == 0) {  // what another field of that name has
    std::vector<Json*> same;
    for (const Place& other : scalars) {
      if (other.name == place.name) same.push_back(other.value);
    }
    return *one_of(random, same);
  }
  if (below(random, 12) == 0) return *one_of(random, scalars).value;
  if (const std::int64_t* number = place.value->as<std::int64_t>()) {
    return {another(*number, random)};
  }
  if (const double* real = place.value->as<double>()) return {another(*real, random)};
  if (const bool* flag = place.value->as<bool>()) return {!*flag};
  if (place.value->is_null()) return {static_cast<std::int64_t>(below(random, 20))};
  std::string text = *place.value->as<std::string>();
  if (text.empty() || below(random, 2) != 0) return {std::string("same")};
  text[below(random, text.size())] = static_cast<char>(' ' + below(random, 95));
  return {text};
}

void alter_fields(Json& json, Random& random) {
  std::vector<Place> scalars, lists;
  add_places("", json, scalars, lists);
  for (std::size_t times = 1 + below(random, 4) / 3; times > 0; --times) {
    const Place& place = one_of(random, scalars);
    *place.value = another(place, scalars, random);
  }
}

// Drops, repeats or exchanges parts of a list or an object.
void alter_structure(Json& json, Random& random) {
  std::vector<Place> scalars, lists;
  add_places("", json, scalars, lists);
  const auto alter = [&](auto& parts) {
    if (parts.empty()) return;
    const auto at = [&] { return parts.begin() + static_cast<long>(below(random, parts.size())); };
    switch (below(random, 4)) {
      case 0:
        parts.erase(at());
        break;
      case 1: {
        const auto copy = *at();
        parts.insert(at(), copy);
        break;
      }
      case 2:
        *at() = typename std::remove_reference_t<decltype(parts)>::value_type(*at());
        break;
      default:
        std::iter_swap(at(), at());
    }
  };
  Json& list = *one_of(random, lists).value;
  if (Items* items = std::get_if<Items>(&list.value)) {
    alter(*items);
  } else {
    alter(std::get<Members>(list.value));
  }
}

// A tensor's entry in the header; not the fillers', and not the checksum's.
Json* any_tensor(Json& header, Random& random) {
  std::vector<Json*> found;
  for (auto& [name, value] : std::get<Members>(header.value)) {
    if (name != "__metadata__" && name != "checksum" && !name.starts_with("padding.")) {
      found.push_back(&value);
    }
  }
  return found.empty() ? nullptr : one_of(random, found);
}

float another(float value, Random& random) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kOdd[] = {0.0f,   -0.0f, 1.0f,  -1.0f,     1e-40f,
                            1e-30f, 1e30f, 3e38f, kInfinity, -kInfinity};
  return another_of(value, kOdd, 8, random);
}

// Some numbers of a tensor, or all of them.
void alter_values(Parts& parts, Random& random) {
  Json* entry = any_tensor(parts.header, random);
  if (entry == nullptr) return;
  const Items& ends = std::get<Items>(member(*entry, "data_offsets").value);
  const auto begin = static_cast<std::size_t>(std::get<std::int64_t>(ends[0].value));
  const auto end = static_cast<std::size_t>(std::get<std::int64_t>(ends[1].value));
  char* first = parts.data.data() + begin;
  const bool reals = std::get<std::string>(member(*entry, "dtype").value) == "F32";
  const std::size_t size = reals ? sizeof(float) : 1, count = (end - begin) / size;
  const bool all = below(random, 4) == 0;
  const int power = static_cast<int>(below(random, 41)) - 20;
  for (std::size_t i = 0, times = all ? count : 1 + below(random, 4); i < times; ++i) {
    char* at = first + size * (all ? i : below(random, count));
    if (reals) {
      float value;
      std::memcpy(&value, at, sizeof value);
      value = all ? std::ldexp(value, power) : another(value, random);
      std::memcpy(at, &value, sizeof value);
    } else if (all || below(random, 2) != 0) {
      *at = static_cast<char>(random());
    } else {
      *at = static_cast<char>(*at ^ (1 << below(random, 8)));
    }
  }
}

// Shapes, types, offsets and names of tensors; in half of the cases those of two tensors exchanged.
void alter_tensors(Parts& parts, Random& random) {
  Json *one = any_tensor(parts.header, random), *other = any_tensor(parts.header, random);
  if (one == nullptr) return;
  Items& shape = std::get<Items>(member(*one, "shape").value);
  switch (below(random, 6)) {
    case 0:
      std::swap(one->value, other->value);
      break;
    case 1:
      std::swap(one_of(random, shape), one_of(random, shape));
      break;
    case 2:  // as many numbers
      shape.insert(shape.begin() + static_cast<long>(below(random, shape.size() + 1)),
                   Json{std::int64_t{1}});
      break;
    case 3:
      alter_structure(*one, random);
      break;
    default:
      alter_fields(below(random, 2) != 0 ? shape[below(random, shape.size())] : *one, random);
  }
}

void alter_bytes(std::string& data, Random& random) {
  for (std::size_t times = 1 + below(random, 3); times > 0 && !data.empty(); --times) {
    const std::size_t at = below(random, data.size()), from = below(random, data.size());
    switch (below(random, 4)) {
      case 0:
        data[at] = static_cast<char>(data[at] ^ (1 << below(random, 8)));
        break;
      case 1:
        data[at] = static_cast<char>(random());
        break;
      case 2:
        for (std::size_t i = at; i < data.size() && i < at + 4; ++i) {
          data[i] = static_cast<char>(random());
        }
        break;
      default:
        data.replace(at, 1 + below(random, 63), data.substr(from, 1 + below(random, 63)));
    }
  }
}

void seal(std::string& file) {
  if (file.size() <= 4) return;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(file.data());
  const std::uint32_t crc = packed::crc32(bytes, file.size() - 4);
  std::memcpy(file.data() + file.size() - 4, &crc, sizeof crc);
}

Kind any_kind(Random& random) {
  constexpr Kind kOften[] = {Kind::fields,  Kind::fields, Kind::fields, Kind::fields,
                             Kind::fields,  Kind::fields, Kind::values, Kind::values,
                             Kind::values,  Kind::values, Kind::values, Kind::values,
                             Kind::tensors, Kind::bytes,  Kind::cut,    Kind::structure};
  return one_of(random, kOften);
}

}  // namespace

const char* name_of(Kind kind) {
  constexpr const char* kNames[] = {"fields", "structure", "values", "tensors", "bytes", "cut"};
  return kNames[static_cast<int>(kind)];
}

Parts parts_of(const std::string& file) {
  std::uint64_t length = 0;
  if (file.size() >= 8) std::memcpy(&length, file.data(), 8);
  if (file.size() < 8 || length > file.size() - 8) throw std::runtime_error("not a packed file");
  Parts parts = {packed::read_json(std::string_view(file).substr(8, length)), {}, {}};
  const Json& text = member(member(parts.header, "__metadata__"), "rsquant");
  parts.metadata = packed::read_json(std::get<std::string>(text.value));
  parts.data = file.substr(8 + length);
  return parts;
}

std::string file_of(const Parts& parts) {
  std::string metadata, header;
  write_json(parts.metadata, metadata);
  Json described = parts.header;
  member(member(described, "__metadata__"), "rsquant").value = metadata;
  write_json(described, header);
  header.append((64 - (8 + header.size()) % 64) % 64, ' ');
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  file += header + parts.data;
  seal(file);
  return file;
}

Mutant mutant_of(const std::string& file, const Parts& parts, std::uint64_t seed,
                 std::uint64_t number) {
  std::seed_seq words = {seed, seed >> 32, number, number >> 32};
  Random random(words);
  Mutant mutant = {{}, any_kind(random), below(random, 16) != 0};
  if (mutant.kind == Kind::cut || mutant.kind == Kind::bytes) {
    mutant.file = file;
    if (mutant.kind == Kind::bytes) {
      alter_bytes(mutant.file, random);
    } else {
      mutant.file.resize(below(random, file.size()));
    }
    if (mutant.sealed) seal(mutant.file);
    return mutant;
  }
  Parts altered = parts;
  if (mutant.kind == Kind::fields) {
    alter_fields(altered.metadata, random);
  } else if (mutant.kind == Kind::structure) {
    alter_structure(altered.metadata, random);
  } else if (mutant.kind == Kind::values) {
    alter_values(altered, random);
  } else {
    alter_tensors(altered, random);
  }
  mutant.file = file_of(altered);
  if (!mutant.sealed) mutant.file.replace(mutant.file.size() - 4, 4, file, file.size() - 4, 4);
  return mutant;
}

}  // namespace rsquant::fuzz
