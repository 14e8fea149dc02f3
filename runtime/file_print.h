/* Parts of files that several kinds share. Failures show in ferror(f). */
#ifndef SY_RUNTIME_FILE_PRINT_H
#define SY_RUNTIME_FILE_PRINT_H

#include <stdint.h>
#include <stdio.h>

/* The head of a .npy file of version 1.0: an array of type descr ("<u8") and n dimensions. */
void sy_npy_print_header(FILE *f, const char *descr, const int64_t *dims, int n);
/* Text as a JSON string, in quotation marks; bytes that are no UTF-8 become question marks. */
void sy_json_print_text(FILE *f, const char *text);

#endif
