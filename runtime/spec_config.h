/* Reading config.json into a spec; used by runtime/spec*.c (and by tests of them) only.
 *
 * A config is flat, or a wrapper (vision, audio) whose text_config holds the language model. */
#ifndef SY_RUNTIME_SPEC_CONFIG_H
#define SY_RUNTIME_SPEC_CONFIG_H

#include <jansson.h>

#include "runtime/spec.h"

typedef struct sy_config {
    const json_t *top;  /* borrowed */
    const json_t *text; /* where the language model's keys are; top if the config is flat */
    const char *where;  /* the file, for error texts */
} sy_config;

/* Caps on single numbers; the number of parameters is capped in all (SY_MAX_PARAMETERS). */
#define SY_MAX_HIDDEN (1 << 18)
#define SY_MAX_WIDTH (1 << 22) /* of an FFN, and of all heads together */
#define SY_MAX_HEADS (1 << 14)
#define SY_MAX_HEAD_DIM (1 << 12)
#define SY_MAX_VOCAB (1 << 24)
#define SY_MAX_POSITION ((int64_t)1 << 31)
#define SY_MAX_PARAMETERS ((uint64_t)1 << 48)

/* The member of the language model's object; NULL if it is absent or null. */
const json_t *sy_config_member(const sy_config *config, const char *key);

/* A required number from 1 to max. `alias` is another spelling, or NULL; both may be given if
 * they agree. */
sy_status sy_config_count(const sy_config *config,
                          const char *key,
                          const char *alias,
                          int64_t max,
                          int *out);

/* Fills everything that the families share: sizes, embedding, norms, rotary, and *layer with
 * attention (without q/k norm and clip) and an empty FFN. Refuses switches that no family here
 * implements. */
sy_status sy_config_common(const sy_config *config, sy_model_spec *spec, sy_layer_spec *layer);

/* Recognises the family, allocates spec->layer and fills it. */
sy_status sy_family_read(const json_t *top, const char *where, sy_model_spec *spec);

/* End tokens, bos and sampling defaults of a generation_config.json. */
sy_status sy_spec_read_generation(sy_model_spec *spec, const json_t *object, const char *where);
/* The end token of a tokenizer_config.json. */
sy_status
sy_spec_read_tokenizer_config(sy_model_spec *spec, const json_t *object, const char *where);
/* eos_token_id, a number or a list, of any object. */
sy_status sy_spec_read_eos(sy_model_spec *spec, const json_t *object, const char *where);
/* bos_token_id, if none is known yet. */
sy_status sy_spec_read_bos(sy_model_spec *spec, const json_t *object, const char *where);

/* A string from a file made fit for one line of an error text: cut, control characters as '?'. */
enum { SY_PRINTABLE_MAX = 80 };
const char *sy_printable(const char *text, char buf[SY_PRINTABLE_MAX]);

#endif
