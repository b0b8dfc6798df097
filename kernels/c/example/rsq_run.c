/* rsq-run MODEL.rsq IMAGE.ppm [SIZE [LOGITS]]: the five likeliest classes of a photograph.
 *
 * SIZE: side in pixels, the largest packed one if it is left out. LOGITS: a file for the logits, as
 * float32. Links to librsquant alone. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ppm.h"
#include "rsquant.h"

static int fail(const char* what) {
  fprintf(stderr, "rsq-run: %s\n", what);
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
    const char* name = rsq_class_name(net, best);
    printf("%6.2f %%  %d %s\n", 100 * exp(logits[best] - largest) / sum, best, name ? name : "");
    logits[best] = -INFINITY;
  }
}

/* The photograph's logits at a size, to be freed; NULL where something failed. */
static float* logits_of(rsq_session* net, const char* path, int size) {
  int height, width;
  uint8_t* photo = ppm_read(path, &height, &width);
  uint8_t* image = malloc((size_t)size * (size_t)size * 3);
  float* logits = malloc((size_t)rsq_classes(net) * sizeof *logits);
  rsq_status status = RSQ_MEMORY;
  if (photo == NULL) {
    fail("the image is no binary PPM (P6) of 8 bits; convert it first");
  } else if (image != NULL && logits != NULL) {
    status = rsq_crop(photo, height, width, size, image);
    if (status == RSQ_OK) status = rsq_run(net, image, 1, size, size, logits);
    if (status != RSQ_OK) fail(rsq_error());
  }
  free(photo);
  free(image);
  if (status == RSQ_OK) return logits;
  free(logits);
  return NULL;
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) return fail("usage: rsq-run MODEL.rsq IMAGE.ppm [SIZE [LOGITS]]");
  rsq_session* net;
  if (rsq_open(argv[1], NULL, &net) != RSQ_OK) return fail(rsq_error());
  const int size = argc > 3 ? atoi(argv[3]) : rsq_resolution(net, 0);
  if (size < 1 || size > 65536) {
    rsq_close(net);
    return fail("SIZE must be 1 to 65536 pixels");
  }
  int status = 1;
  float* logits = logits_of(net, argv[2], size);
  if (logits != NULL) {
    const size_t classes = (size_t)rsq_classes(net);
    FILE* file = argc > 4 ? fopen(argv[4], "wb") : NULL;
    status = argc > 4 && (file == NULL || fwrite(logits, sizeof *logits, classes, file) != classes);
    if (file != NULL && fclose(file) != 0) status = 1;
    if (status != 0) fail("the logits cannot be written");
    print_likeliest(net, logits, (int)classes);
  }
  free(logits);
  rsq_close(net);
  return status;
}
