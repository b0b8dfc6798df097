// The C interface: what is thrown becomes a code and a line of text.

#include <algorithm>
#include <cstdint>
#include <new>
#include <thread>

#include "maps.h"
#include "photograph.h"
#include "session.h"

struct rsq_session {
  rsquant::packed::Session session;
};

namespace {

using namespace rsquant::packed;

constexpr int kMostThreads = 1024;

thread_local std::string last_error;

rsq_status failed(rsq_status status, const std::string& text) {
  last_error = one_line(text);
  return status;
}

// Runs what may throw.
template <class Work>
rsq_status guarded(const Work& work) noexcept {
  try {
    try {
      work();
      return RSQ_OK;
    } catch (const Failure& failure) {
      return failed(failure.status, failure.text);
    } catch (const std::bad_alloc&) {
      return failed(RSQ_MEMORY,
                    "there is not enough memory; use smaller images or a smaller network");
    } catch (const std::exception& error) {
      return failed(RSQ_INTERNAL,
                    text_of("this is a mistake in rsquant, please report it: ", error.what()));
    }
  } catch (...) {  // no memory for the text either
    last_error.clear();
    return RSQ_MEMORY;
  }
}

[[noreturn]] void refuse(const std::string& text) { throw Failure{RSQ_ARGUMENT, text}; }

template <class T>
T& given(T* pointer, const char* name) {
  if (pointer == nullptr) refuse(text_of(name, ": must not be NULL"));
  return *pointer;
}

void check_sides(const char* names, std::initializer_list<int> sides) {
  for (const int side : sides) {
    if (side < 1 || side > kMostSide) {
      refuse(text_of(names, ": must be 1 to ", kMostSide, ", got ", side));
    }
  }
}

void check_index(const Session& session, int index) {
  const std::size_t count = session.settings().size();
  if (index < 0 || static_cast<std::size_t>(index) >= count) {
    refuse(text_of("index: must be 0 to ", count - 1, ", got ", index));
  }
}

// The session that is to run images.
Session& running(rsq_session* session, const uint8_t* images, int count, bool maps) {
  Session& of = given(session, "session").session;
  given(images, "images");
  if (count < 1) refuse(text_of("count: must be 1 or more, got ", count));
  if (of.gives_maps() != maps) {
    refuse(maps
               ? "session: its network gives one prediction per image; call rsq_run"
               : "session: its network gives one prediction per pixel; call rsq_maps or rsq_masks");
  }
  return of;
}

Options options_of(const rsq_options* given) {
  rsq_options of;
  rsq_default_options(&of);
  if (given != nullptr) of = *given;
  if (of.threads < 0 || of.threads > kMostThreads) {
    refuse(text_of("threads: must be 0 to ", kMostThreads, ", got ", of.threads));
  }
  if (of.keep_sizes < 0) refuse(text_of("keep_sizes: must be 0 or more, got ", of.keep_sizes));
  if (of.threads == 0) {
    of.threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostThreads);
  }
  return {of.threads,
          of.low_memory != 0,
          of.tune != 0,
          of.interpolate != 0,
          of.keep_sizes,
          of.isa == nullptr ? "" : of.isa,
          of.kernel == nullptr ? "" : of.kernel};
}

// read: a container of options.
template <class Read>
rsq_status open_with(const char* path, const rsq_options* options, rsq_session** session,
                     const Read& read) noexcept {
  if (session != nullptr) *session = nullptr;
  return guarded([&] {
    given(session, "session");
    const Options of = options_of(options);
    *session = new rsq_session{Session(path, read(), of)};
  });
}

}  // namespace

void rsq_default_options(rsq_options* options) {
  if (options == nullptr) return;
  *options = {.threads = 0,
              .low_memory = 0,
              .tune = 1,
              .interpolate = 1,
              .keep_sizes = 16,
              .isa = nullptr,
              .kernel = nullptr};
}

rsq_status rsq_open(const char* path, const rsq_options* options, rsq_session** session) {
  return open_with(path == nullptr ? "" : path, options, session, [&] {
    given(path, "path");
    return read_file(path);
  });
}

rsq_status rsq_open_memory(const void* data, size_t bytes, const rsq_options* options,
                           rsq_session** session) {
  static const char kName[] = "network in memory";
  return open_with(kName, options, session, [&] {
    const auto* first = static_cast<const std::uint8_t*>(data);
    if (bytes > PTRDIFF_MAX)
      refuse(text_of("bytes: must be at most ", PTRDIFF_MAX, ", got ", bytes));
    return read_bytes(kName, &given(first, "data"), bytes);
  });
}

void rsq_close(rsq_session* session) { delete session; }

rsq_status rsq_run(rsq_session* session, const uint8_t* images, int count, int height, int width,
                   float* logits) {
  return guarded([&] {
    Session& of = running(session, images, count, false);
    of.run(images, count, height, width, &given(logits, "logits"));
  });
}

int rsq_gives_maps(const rsq_session* session) {
  return session != nullptr && session->session.gives_maps();
}

rsq_status rsq_maps(rsq_session* session, const uint8_t* images, int count, int height, int width,
                    int map_height, int map_width, float* logits) {
  return guarded([&] {
    Session& of = running(session, images, count, true);
    check_sides("map_height, map_width", {map_height, map_width});
    const Pair size = {map_height, map_width};
    const int classes = of.network().num_classes;
    float* out = &given(logits, "logits");
    of.run_maps(images, count, height, width, [&](const float* maps, Pair map) {
      resized_maps(maps, classes, map, size, out);
      out += static_cast<std::size_t>(classes) * map_height * map_width;
    });
  });
}

rsq_status rsq_masks(rsq_session* session, const uint8_t* images, int count, int height, int width,
                     int map_height, int map_width, uint16_t* classes) {
  return guarded([&] {
    Session& of = running(session, images, count, true);
    check_sides("map_height, map_width", {map_height, map_width});
    const Pair size = {map_height, map_width};
    std::uint16_t* out = &given(classes, "classes");
    of.run_maps(images, count, height, width, [&](const float* maps, Pair map) {
      likeliest_classes(maps, of.network().num_classes, map, size, out);
      out += static_cast<std::size_t>(map_height) * map_width;
    });
  });
}

rsq_status rsq_map_size(rsq_session* session, int height, int width, int* map_height,
                        int* map_width) {
  return guarded([&] {
    const Pair map = given(session, "session").session.map_size(height, width);
    given(map_height, "map_height") = map[0];
    given(map_width, "map_width") = map[1];
  });
}

rsq_status rsq_prepare(rsq_session* session, int height, int width) {
  return guarded([&] { given(session, "session").session.prepare(height, width); });
}

rsq_status rsq_crop(const uint8_t* pixels, int height, int width, int resolution, uint8_t* image) {
  return guarded([&] {
    given(pixels, "pixels");
    given(image, "image");
    check_sides("height, width, resolution", {height, width, resolution});
    evaluation_crop(isa_to_use(""), pixels, height, width, resolution, image);
  });
}

int rsq_resolutions(const rsq_session* session) {
  return session == nullptr ? 0 : static_cast<int>(session->session.network().resolutions.size());
}

int rsq_resolution(const rsq_session* session, int index) {
  if (index < 0 || index >= rsq_resolutions(session)) return 0;
  return session->session.network().resolutions[static_cast<std::size_t>(index)];
}

int rsq_classes(const rsq_session* session) {
  return session == nullptr ? 0 : session->session.network().num_classes;
}

const char* rsq_class_name(const rsq_session* session, int index) {
  if (index < 0 || index >= rsq_classes(session)) return nullptr;
  const auto& names = session->session.network().classes;
  return names.empty() ? nullptr : names[static_cast<std::size_t>(index)].c_str();
}

int rsq_settings(const rsq_session* session) {
  return session == nullptr ? 0 : static_cast<int>(session->session.settings().size());
}

rsq_status rsq_setting(const rsq_session* session, int index, double* width, int* wbits,
                       int* abits) {
  return guarded([&] {
    const Session& of = given(session, "session").session;
    check_index(of, index);
    const Variant& setting = of.settings()[static_cast<std::size_t>(index)];
    given(width, "width") = setting.width;
    given(wbits, "wbits") = setting.bits.weights;
    given(abits, "abits") = setting.bits.activations;
  });
}

rsq_status rsq_use_setting(rsq_session* session, int index) {
  return guarded([&] {
    Session& of = given(session, "session").session;
    check_index(of, index);
    of.use(static_cast<std::size_t>(index));
  });
}

const char* rsq_isa(const rsq_session* session) {
  return session == nullptr ? "" : session->session.isa();
}

int rsq_threads(const rsq_session* session) {
  return session == nullptr ? 0 : session->session.threads();
}

const char* rsq_error(void) { return last_error.c_str(); }

const char* rsq_version(void) { return RSQUANT_VERSION; }
