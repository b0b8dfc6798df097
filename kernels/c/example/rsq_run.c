/* rsq-run MODEL.rsq IMAGE.ppm [SIZE [FILE]]: the five likeliest classes of a photograph, or of a
 * network that gives one per pixel, the five commonest.
 *
 * SIZE: side in pixels, the largest packed one if it is left out. FILE: where the logits go, as
 * float32, or the class of each pixel of the photograph, as PGM. Links to librsquant alone. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ppm.h"
#include "rsquant.h"

static int fail(const char* where, const char* what) {
  fprintf(stderr, "rsq-run: %s%s%s\n", where, *where ? ": " : "", what);
  return 1;
}

/* Prints the classes of the largest logits, with their probabilities. */
static void print_likeliest(const rsq_session* net, float* logits, int classes) {
  double sum = 0;
  float largest = logits[0];
  for (int i = 1; i < classes; ++i) largest = logits[i] > largest ? logits[i] : largest;
  for (int i = 0; i < classes; ++i) sum += exp(logits[i] - largest);
  for (int shown = 0; shown < 5 && shown < classes; ++shown) {
    int best = 0;
    for (int i = 1; i < classes; ++i) best = logits[i] > logits[best] ? i : best;
    if (logits[best] == -INFINITY) break;
    const char* name = rsq_class_name(net, best);
    printf("%6.2f %%  %d %s\n", 100 * exp(logits[best] - largest) / sum, best, name ? name : "");
    logits[best] = -INFINITY;
  }
}

/* The class of each pixel of the photograph, and of each class the logarithm of how many pixels it
 * has: the probabilities of such logits are the classes' shares. */
static rsq_status segment(rsq_session* net, const uint8_t* image, int size, int height, int width,
                          uint16_t* mask, float* logits) {
  const int classes = rsq_classes(net);
  const size_t pixels = (size_t)height * (size_t)width;
  const rsq_status status = rsq_masks(net, image, 1, size, size, height, width, mask);
  static size_t counts[65536]; /* of all numbers that a mask can hold */
  for (size_t i = 0; i < pixels && status == RSQ_OK; ++i) ++counts[mask[i]];
  for (int c = 0; c < classes; ++c) logits[c] = (float)log((double)counts[c]);
  return status;
}

/* Logits, or the class of each pixel, to a file. */
static int save(const char* path, const float* logits, const uint16_t* mask, int classes,
                int height, int width) {
  FILE* file = fopen(path, "wb");
  if (file == NULL) return fail(path, strerror(errno));
  if (mask != NULL) fprintf(file, "P5\n%d %d\n%d\n", width, height, classes > 1 ? classes - 1 : 1);
  for (size_t i = 0; mask != NULL && i < (size_t)height * (size_t)width; ++i) {
    if (classes > 256) fputc(mask[i] >> 8, file);
    fputc(mask[i] & 255, file);
  }
  if (mask == NULL) fwrite(logits, sizeof *logits, (size_t)classes, file);
  const int failed = ferror(file);
  return fclose(file) != 0 || failed ? fail(path, "cannot be written") : 0;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) return fail("usage", "rsq-run MODEL.rsq IMAGE.ppm [SIZE [FILE]]");
  rsq_session* net;
  if (rsq_open(argv[1], NULL, &net) != RSQ_OK) return fail("", rsq_error());
  char* end = "";
  const long size = argc > 3 ? strtol(argv[3], &end, 10) : rsq_resolution(net, 0);
  if (size < 1 || size > 65536 || *end != '\0') {
    return rsq_close(net), fail("SIZE", "must be 1 to 65536 pixels");
  }
  const int side = (int)size, maps = rsq_gives_maps(net);
  const char* wrong;
  int height, width, failed = 1;
  uint8_t *photo = ppm_read(argv[2], &height, &width, &wrong), *image = malloc(3 * size * size);
  uint16_t* mask = photo && maps ? malloc((size_t)height * (size_t)width * sizeof *mask) : NULL;
  float* logits = malloc((size_t)rsq_classes(net) * sizeof *logits);
  if (photo == NULL) {
    fail(argv[2], wrong);
  } else if (image == NULL || logits == NULL || (maps && mask == NULL)) {
    fail(argv[2], "there is not enough memory");
  } else if ((maps ? rsq_square : rsq_crop)(photo, height, width, side, image) != RSQ_OK ||
             (maps ? segment(net, image, side, height, width, mask, logits)
                   : rsq_run(net, image, 1, side, side, logits)) != RSQ_OK) {
    fail("", rsq_error());
  } else {
    failed = argc > 4 && save(argv[4], logits, mask, rsq_classes(net), height, width);
    print_likeliest(net, logits, rsq_classes(net));
  }
  free(photo);
  free(image);
  free(mask);
  free(logits);
  rsq_close(net);
  return failed;
}
