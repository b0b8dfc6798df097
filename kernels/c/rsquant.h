/* rsquant's packed networks (.rsq) in C, without Python.
 *
 *     rsq_session *net;
 *     if (rsq_open("net.rsq", NULL, &net) != RSQ_OK) return fail(rsq_error());
 *     float *logits = malloc(rsq_classes(net) * sizeof *logits);
 *     if (rsq_run(net, pixels, 1, 224, 224, logits) != RSQ_OK) return fail(rsq_error());
 *     rsq_close(net);
 *
 * The size of the images picks the setting: a packed size its own BatchNorms, any other a blend of
 * its neighbours'. Logits are the bits that Python's `rsquant.runtime.load` gives. docs/c.md says
 * more.
 *
 * A session may be called from several threads: its calls wait for each other. Use a session for
 * each thread to run at the same time. Threads do not survive a fork(): in the child all work of a
 * session runs on the calling thread. Open the file again there.
 */
#ifndef RSQUANT_H
#define RSQUANT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RSQ_API __attribute__((visibility("default")))
#else
#define RSQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns. Everything but RSQ_OK leaves a line of text for `rsq_error`. */
typedef enum {
  RSQ_OK = 0,
  RSQ_ARGUMENT = 1,    /* NULL, or a number out of range: the caller's mistake */
  RSQ_FILE = 2,        /* missing, unreadable, altered, or not a valid packed network */
  RSQ_SIZE = 3,        /* images too small or too large for the network, or a size not packed */
  RSQ_UNSUPPORTED = 4, /* an operation or version that this library lacks: use the Python runtime */
  RSQ_MEMORY = 5,      /* there is not enough memory */
  RSQ_INTERNAL = 6     /* a mistake in this library: please report it */
} rsq_status;

/* How to run; fill it in with `rsq_default_options` first. */
typedef struct {
  int threads;        /* that share the work; 0: as many as there are processors */
  int low_memory;     /* not 0: in each call unpack what takes more than 416 KB unpacked
                         (354 KB of a 1x1 convolution); working memory is
                         resident where a size has used it */
  int tune;           /* not 0: time, once per machine and setting, which kernels are fastest */
  int interpolate;    /* 0: refuse sizes that are not packed */
  int keep_sizes;     /* of sizes that are not packed, how many stay ready */
  const char* isa;    /* instruction set, as "avx2"; NULL: RSQUANT_ISA, or the best there is */
  const char* kernel; /* convolution kernel, wherever it can be; NULL: the fastest known */
} rsq_options;

typedef struct rsq_session rsq_session;

RSQ_API void rsq_default_options(rsq_options* options);

/* Reads a whole file, checks all of it, and makes its largest size ready. What happens to the file
 * afterwards changes nothing. options: NULL for the defaults. *session: NULL if it fails. */
RSQ_API rsq_status rsq_open(const char* path, const rsq_options* options, rsq_session** session);

/* The same of a file's bytes in memory, which are copied. */
RSQ_API rsq_status rsq_open_memory(const void* data, size_t bytes, const rsq_options* options,
                                   rsq_session** session);

/* NULL is allowed. No other call of the session may be under way. */
RSQ_API void rsq_close(rsq_session* session);

/* Logits of `count` images, of a network that gives one prediction per image.
 *   images  (count, 3, height, width) pixels, R G B, 0 to 255
 *   logits  room for (count, rsq_classes) floats */
RSQ_API rsq_status rsq_run(rsq_session* session, const uint8_t* images, int count, int height,
                           int width, float* logits);

/* Not 0: the network gives one prediction per pixel. `rsq_maps` and `rsq_masks` run it, rsq_run
 * does not. */
RSQ_API int rsq_gives_maps(const rsq_session* session);

/* Logits of each pixel, bilinear between those that the network gives.
 *   images               as of rsq_run
 *   map_height, _width   of the result: the images' or, where they were resized from a photograph,
 *                        the photograph's; 1 to 65,536
 *   logits               room for (count, rsq_classes, map_height, map_width) floats */
RSQ_API rsq_status rsq_maps(rsq_session* session, const uint8_t* images, int count, int height,
                            int width, int map_height, int map_width, float* logits);

/* The class with the largest logit of each pixel; arguments as of rsq_maps.
 *   classes  room for (count, map_height, map_width) numbers */
RSQ_API rsq_status rsq_masks(rsq_session* session, const uint8_t* images, int count, int height,
                             int width, int map_height, int map_width, uint16_t* classes);

/* The size of the maps that the network itself gives for images of a size, which rsq_maps does not
 * change; 1 x 1 where it gives one prediction per image. Makes the images' size ready. */
RSQ_API rsq_status rsq_map_size(rsq_session* session, int height, int width, int* map_height,
                                int* map_width);

/* Makes a size ready, so that the first rsq_run of it is as fast as the others. */
RSQ_API rsq_status rsq_prepare(rsq_session* session, int height, int width);

/* The part of a photograph that networks of whole images are evaluated on: its short side resized
 * to resolution / 0.875 pixels, bilinear with antialiasing, then the centre.
 *   pixels  (height, width, 3), R G B, rows one behind the other
 *   image   room for (3, resolution, resolution): what rsq_run takes */
RSQ_API rsq_status rsq_crop(const uint8_t* pixels, int height, int width, int resolution,
                            uint8_t* image);

/* What networks that give one prediction per pixel are evaluated on: the whole photograph as a
 * square, bilinear with antialiasing; arguments as of rsq_crop. rsq_maps and rsq_masks of the
 * photograph's height and width have a result for each of its pixels. */
RSQ_API rsq_status rsq_square(const uint8_t* pixels, int height, int width, int resolution,
                              uint8_t* image);

/* Packed sizes in pixels, largest first; 0 beyond the last. */
RSQ_API int rsq_resolutions(const rsq_session* session);
RSQ_API int rsq_resolution(const rsq_session* session, int index);

/* Outputs, and the name of a class; NULL where the network has none. Names are UTF-8 on one line:
 * bytes of characters that do not print are escaped ("\x1b"), after 2,000 bytes a name is cut. */
RSQ_API int rsq_classes(const rsq_session* session);
RSQ_API const char* rsq_class_name(const rsq_session* session, int index);

/* Settings in the file, the costliest first: the share of the channels (1: all), and the bits of
 * weights and activations of one of them. */
RSQ_API int rsq_settings(const rsq_session* session);
RSQ_API rsq_status rsq_setting(const rsq_session* session, int index, double* width, int* wbits,
                               int* abits);

/* Which setting later calls run; 0 to begin with. */
RSQ_API rsq_status rsq_use_setting(rsq_session* session, int index);

/* Instruction set and threads in use. */
RSQ_API const char* rsq_isa(const rsq_session* session);
RSQ_API int rsq_threads(const rsq_session* session);

/* What went wrong in the last call of this thread that failed: one line, UTF-8; "" if none did. It
 * stays valid until the thread's next call of this library. */
RSQ_API const char* rsq_error(void);

/* The version of rsquant that this library belongs to. */
RSQ_API const char* rsq_version(void);

#ifdef __cplusplus
}
#endif

#endif
