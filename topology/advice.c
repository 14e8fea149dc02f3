#include "topology/advice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "topology/advice_checks.h"

static sy_advice_item *find(sy_advice *advice, const sy_finding *f) {
    for (int i = 0; i < advice->n; i++) {
        sy_advice_item *item = &advice->item[i];
        if (strcmp(item->topic, f->topic) == 0 && strcmp(item->text, f->text) == 0 &&
            strcmp(item->cure, f->cure) == 0)
            return item;
    }
    return NULL;
}

void sy_advice_add(sy_advice *advice, const sy_finding *f) {
    sy_advice_item *item = find(advice, f);
    if (item == NULL) {
        if (advice->n == SY_ADVICE_MAX) return;
        item = &advice->item[advice->n++];
        *item = (sy_advice_item){.level = f->level};
        snprintf(item->topic, sizeof item->topic, "%s", f->topic);
        memcpy(item->text, f->text, sizeof item->text);
        memcpy(item->cure, f->cure, sizeof item->cure);
    }
    if (f->machine < 0 || sy_advice_concerns(item, f->machine)) return;
    item->machine[f->machine / 64] |= (uint64_t)1 << (f->machine % 64);
    item->n_machines++;
}

void sy_advice_list(char *buf, size_t size, const char *word) {
    size_t used = strlen(buf);
    const char *mark = used > 0 ? ", " : "";
    if (used + strlen(mark) + strlen(word) + 1 <= size)
        snprintf(buf + used, size - used, "%s%s", mark, word);
}

bool sy_advice_concerns(const sy_advice_item *item, int machine) {
    return (item->machine[machine / 64] >> (machine % 64) & 1) != 0;
}

char *sy_advice_where(const sy_advice_item *item,
                      const sy_machines *machines,
                      char *buf,
                      size_t size) {
    buf[0] = '\0';
    if (item->n_machines > 1 && item->n_machines == machines->n) {
        snprintf(buf, size, "all %d hosts", machines->n);
        return buf;
    }
    for (int m = 0; m < machines->n; m++)
        if (sy_advice_concerns(item, m)) sy_advice_list(buf, size, machines->machine[m].name);
    return buf;
}

/* Warnings first, each kind in the order of finding. */
static void sort(sy_advice *advice, sy_advice_item *scratch) {
    int n = 0;
    for (int level = SY_ADVICE_WARNING; level >= SY_ADVICE_NOTE; level--)
        for (int i = 0; i < advice->n; i++)
            if ((int)advice->item[i].level == level) scratch[n++] = advice->item[i];
    memcpy(advice->item, scratch, (size_t)n * sizeof *scratch);
}

sy_status
sy_advice_make(const sy_machines *machines, const sy_binding *binding, sy_advice **out) {
    sy_status st = SY_OK;
    sy_advice *advice = calloc(1, sizeof *advice);
    sy_advice_item *scratch = calloc(SY_ADVICE_MAX, sizeof *scratch);
    *out = NULL;
    if (advice == NULL || scratch == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for advice");
    for (int i = 0; i < machines->n; i++) {
        sy_advise_network(machines, i, advice);
        sy_advise_settings(machines, i, advice);
        sy_advise_machine(machines, i, advice);
    }
    sy_advise_differences(machines, advice);
    if (binding != NULL) sy_advise_binding(machines, binding, advice);
    sort(advice, scratch);
    *out = advice;
    advice = NULL;
done:
    free(scratch);
    free(advice);
    return st;
}
