#include "container.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "failure.h"

namespace rsquant::packed {
namespace {

constexpr std::size_t kAlignment = 64;
// A ResNet-50's header has 60 KB.
constexpr std::uint64_t kMostHeader = 16u << 20;
constexpr std::size_t kMostDimensions = 4;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Failure{RSQ_FILE, path + ": " + what};
}

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  refuse(path, "was altered or truncated (" + what + "); copy or pack it again");
}

[[noreturn]] void unreadable(const std::string& path, int error) {
  refuse(path, "cannot be read (" + std::generic_category().message(error) + ")");
}

// Closed at the end of its scope.
struct OpenFile {
  explicit OpenFile(const std::string& path)
      : number(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~OpenFile() {
    if (number >= 0) close(number);
  }
  OpenFile(const OpenFile&) = delete;
  int number;
};

std::size_t read_some(const std::string& path, const OpenFile& file, std::uint8_t* to,
                      std::size_t most) {
  for (;;) {
    const ssize_t got = read(file.number, to, most);
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) unreadable(path, errno);
  }
}

Json json_of(const std::string& path, std::string_view text) {
  try {
    return read_json(text);
  } catch (const JsonError& error) {
    damaged(path, "its description cannot be read: " + error.text);
  }
}

bool is_filler(const std::string& name) {
  constexpr std::string_view kFiller = "padding.";
  return name.size() > kFiller.size() && name.starts_with(kFiller) &&
         name.find_first_not_of("0123456789", kFiller.size()) == std::string::npos;
}

bool type_named(const std::string& name, Type& type) {
  for (const Type known : {Type::u8, Type::i8, Type::i16, Type::f32, Type::u32}) {
    if (name != name_of(known)) continue;
    type = known;
    return true;
  }
  return false;
}

// Whether a value is a list of integers of at least 0. One of more than 63 bits is that too, but no
// size of a file: it becomes the largest.
bool sizes_of(const Json& value, std::vector<std::int64_t>& sizes) {
  const Items* items = value.as<Items>();
  if (items == nullptr) return false;
  for (const Json& item : *items) {
    if (const std::int64_t* size = item.as<std::int64_t>()) {
      sizes.push_back(*size);
    } else if (const Large* large = item.as<Large>()) {
      sizes.push_back(large->nearest < 0 ? -1 : std::numeric_limits<std::int64_t>::max());
    } else {
      return false;
    }
    if (sizes.back() < 0) return false;
  }
  return true;
}

// A tensor's place in the data.
struct Entry {
  std::int64_t begin, end;
  std::string name;
  Tensor tensor;
};

Entry entry_of(const std::string& path, const std::string& name, const Json& json) {
  const auto wrong = [&](const char* what) {
    damaged(path, "tensor '" + brief(name) + "' " + what);
  };
  const Members* members = json.as<Members>();
  const Json *type = json.find("dtype"), *shape = json.find("shape"),
             *offsets = json.find("data_offsets");
  if (members == nullptr || members->size() != 3 || !type || !shape || !offsets) {
    wrong("is not described as a tensor");
  }
  Entry entry = {0, 0, name, {Type::u8, {}, nullptr}};
  const std::string* known = type->as<std::string>();
  if (known == nullptr || !type_named(*known, entry.tensor.type)) wrong("has an unknown type");
  std::vector<std::int64_t>& sizes = entry.tensor.shape;
  if (!sizes_of(*shape, sizes) || sizes.empty() || sizes.size() > kMostDimensions ||
      std::count(sizes.begin(), sizes.end(), 0) > 0) {
    wrong("has an invalid shape");
  }
  std::vector<std::int64_t> ends;
  if (!sizes_of(*offsets, ends) || ends.size() != 2) wrong("has invalid offsets");
  __int128 bytes = static_cast<__int128>(bytes_of(entry.tensor.type));
  for (const std::int64_t size : sizes) {
    bytes *= size;
    if (bytes > std::numeric_limits<std::int64_t>::max()) break;
  }
  if (static_cast<__int128>(ends[1]) - ends[0] != bytes) {
    wrong("has a size that does not match its shape");
  }
  entry.begin = ends[0], entry.end = ends[1];
  return entry;
}

// Tensors with what they point to; they must cover the data without hole or overlap.
std::vector<Entry> tensors_of(const std::string& path, const Json& header,
                              std::span<const std::uint8_t> data) {
  std::vector<Entry> found;
  for (const auto& [name, json] : *header.as<Members>()) {
    if (name != "__metadata__") found.push_back(entry_of(path, name, json));
  }
  std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::int64_t end = 0;
  const std::int64_t all = static_cast<std::int64_t>(data.size());
  for (Entry& entry : found) {
    const std::string named = "tensor '" + brief(entry.name) + "' ";
    if (entry.begin != end || entry.end > all) {
      damaged(path, named + "overlaps another, leaves a hole or exceeds the data");
    }
    if (entry.begin % static_cast<std::int64_t>(kAlignment) != 0 && !is_filler(entry.name)) {
      damaged(path, named + "is not aligned to 64 bytes");
    }
    entry.tensor.data = data.data() + entry.begin;
    end = entry.end;
  }
  if (end != all) damaged(path, text_of(all - end, " bytes belong to no tensor"));
  return found;
}

Container parsed(const std::string& path, std::shared_ptr<const Buffer> file, std::size_t size) {
  const std::span<const std::uint8_t> data(file->data(), size);
  std::uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data.data(), 8);
  if (size < 8 || length < 2 || length > kMostHeader || length > size - 8) {
    refuse(path,
           text_of("is not a packed network, or was altered or truncated (its header would "
                   "have ",
                   length, " bytes, the file has ", size, "); write one with 'rsquant pack'"));
  }
  const std::string_view text(reinterpret_cast<const char*>(data.data()) + 8, length);
  if (!is_utf8(text)) damaged(path, "its header is not UTF-8");
  const Json header = json_of(path, text);
  if (header.as<Members>() == nullptr) damaged(path, "its header is not a JSON object");
  if ((8 + length) % kAlignment != 0) {
    refuse(path, "its data is not aligned to 64 bytes; write it with 'rsquant pack'");
  }
  const Json* described = header.find("__metadata__");
  const Json* metadata = described == nullptr ? nullptr : described->find("rsquant");
  if (metadata == nullptr || metadata->as<std::string>() == nullptr) {
    refuse(path, "is not a packed network (no rsquant metadata); write one with 'rsquant pack'");
  }
  Container found = {file, {}, {}, 0};
  const Entry* checksum = nullptr;
  const std::vector<Entry> entries = tensors_of(path, header, data.subspan(8 + length));
  for (const Entry& entry : entries) {
    if (entry.name == "checksum") {
      checksum = &entry;
    } else if (!is_filler(entry.name)) {
      found.tensors.emplace(entry.name, entry.tensor);
    }
  }
  if (checksum == nullptr || checksum->tensor.type != Type::u32 ||
      checksum->tensor.shape != std::vector<std::int64_t>{1}) {
    damaged(path, "it has no checksum");
  }
  if (checksum->tensor.data != data.data() + size - 4) {
    damaged(path, "its checksum is not at its end");
  }
  std::memcpy(&found.checksum, checksum->tensor.data, 4);
  if (crc32(data.data(), size - 4) != found.checksum) damaged(path, "its checksum differs");
  found.metadata = json_of(path, *metadata->as<std::string>());
  return found;
}

}  // namespace

std::size_t bytes_of(Type type) {
  switch (type) {
    case Type::u8:
    case Type::i8:
      return 1;
    case Type::i16:
      return 2;
    default:
      return 4;
  }
}

const char* name_of(Type type) {
  static const char* const kNames[] = {"U8", "I8", "I16", "F32", "U32"};
  return kNames[static_cast<int>(type)];
}

std::int64_t Tensor::count() const {
  std::int64_t n = 1;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

Container read_file(const std::string& path) {
  const OpenFile file(path);
  if (file.number < 0) {
    if (errno == ENOENT) refuse(path, "no such file; write one with 'rsquant pack'");
    unreadable(path, errno);
  }
  struct stat status;
  if (fstat(file.number, &status) != 0) unreadable(path, errno);
  if (!S_ISREG(status.st_mode)) refuse(path, "is not a file; name a packed file");
  const std::size_t size = static_cast<std::size_t>(status.st_size);
  if (size == 0) damaged(path, "it is empty");
  const auto copy = std::make_shared<Buffer>(size);
  std::size_t done = 0;
  while (done < size) {
    const std::size_t got = read_some(path, file, copy->data() + done, size - done);
    if (got == 0) break;
    done += got;
  }
  std::uint8_t more;
  if (done != size || read_some(path, file, &more, 1) != 0) {
    damaged(path, "it changed while it was read");
  }
  return parsed(path, copy, size);
}

Container read_bytes(const std::string& path, const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) damaged(path, "it is empty");
  const auto copy = std::make_shared<Buffer>(bytes);
  std::memcpy(copy->data(), data, bytes);
  return parsed(path, copy, bytes);
}

}  // namespace rsquant::packed
