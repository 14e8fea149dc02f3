/* Loading quantised weights: a small checkpoint in one of the published formats, changed as the
 * input says (weight_input.h). It loads, or there is an error with a text. */
#include "weight_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    weight_input_load(data, size);
    return 0;
}
