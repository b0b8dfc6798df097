/* Reads photographs of the simplest format there is, binary PPM (P6, 8 bits): every converter
 * writes it ("djpeg photo.jpg", "ffmpeg -i photo.jpg photo.ppm", Pillow's save). */
#ifndef RSQ_PPM_H
#define RSQ_PPM_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The next number of a header, behind spaces and comments; -1 where there is none. */
static int ppm_number(FILE* file) {
  int c = getc(file), n = -1;
  while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = getc(file);
    }
    c = getc(file);
  }
  for (; c >= '0' && c <= '9' && n <= 65536; c = getc(file)) n = (n < 0 ? 0 : n) * 10 + (c - '0');
  return n > 65536 ? -1 : n; /* the one byte behind it is read, too */
}

/* (height, width, 3) R G B, to be freed; NULL where it cannot be read, and *wrong says why. */
static uint8_t* ppm_read(const char* path, int* height, int* width, const char** wrong) {
  FILE* file = fopen(path, "rb");
  uint8_t* pixels = NULL;
  *wrong = "is no binary PPM (P6) of 8 bits; convert it first";
  if (file == NULL) return *wrong = strerror(errno), NULL;
  if (getc(file) == 'P' && getc(file) == '6') {
    *width = ppm_number(file);
    *height = *width > 0 ? ppm_number(file) : -1;
    if (*height > 0 && ppm_number(file) == 255) {
      const size_t bytes = (size_t)*height * (size_t)*width * 3;
      pixels = malloc(bytes);
      *wrong = pixels == NULL ? "there is not enough memory for it" : "ends too early";
      if (pixels != NULL && fread(pixels, 1, bytes, file) != bytes) {
        free(pixels);
        pixels = NULL;
      }
    }
  }
  if (ferror(file)) *wrong = strerror(errno);
  fclose(file);
  return pixels;
}

#endif
