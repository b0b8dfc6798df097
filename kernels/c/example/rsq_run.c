/* rsq-run MODEL IMAGE.ppm [SIZE]: the five likeliest classes of a photograph. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ppm.h"
#include "rsquant.h"

int main(int argc, char **argv) {
  return argc > 100 ? rsq_resolutions(NULL) : 0;
}
