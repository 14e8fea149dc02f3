/* Added tokens: strings that are found in the text as a whole, before anything else is done to
 * it. The scan takes the leftmost match and of those the longest. From each byte that can start
 * a token the trie is walked down, so a text costs at most its length times the longest token,
 * which SY_MAX_ADDED_LENGTH bounds. */
#include "runtime/tokenizer_parts.h"

#include <stdlib.h>

#include "runtime/utf8.h"

sy_status sy_added_init(sy_added_set *set, size_t n, size_t n_bytes, uint64_t seed) {
    size_t slots = 16;
    while (slots < 2 * n_bytes)
        slots *= 2;
    *set = (sy_added_set){.seed = seed, .edge_mask = slots - 1, .n_nodes = 1};
    set->room = (uint32_t)n;
    set->node_room = (uint32_t)n_bytes + 1;
    set->token = calloc(n + 1, sizeof *set->token);
    set->end_of = malloc(set->node_room * sizeof *set->end_of);
    set->edge = calloc(slots, sizeof *set->edge);
    if (set->token == NULL || set->end_of == NULL || set->edge == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for %zu added tokens", n);
    for (uint32_t i = 0; i < set->node_room; i++)
        set->end_of[i] = -1;
    return SY_OK;
}

void sy_added_free(sy_added_set *set) {
    free(set->token);
    free(set->end_of);
    free(set->edge);
    *set = (sy_added_set){0};
}

/* The slot of an edge, or the empty one where it belongs. */
static uint64_t *edge_slot(const sy_added_set *set, uint32_t parent, unsigned char byte) {
    uint32_t key = parent << 8 | byte; /* nodes are fewer than 2^24 */
    uint64_t i = sy_mix64(set->seed ^ key) & set->edge_mask;
    while (set->edge[i] != 0 && set->edge[i] >> 32 != key)
        i = (i + 1) & set->edge_mask;
    return &set->edge[i];
}

void sy_added_insert(sy_added_set *set,
                     const char *content,
                     size_t size,
                     sy_added_token token) {
    uint32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)content[i];
        uint64_t *slot = edge_slot(set, node, byte);
        if (*slot == 0) *slot = (uint64_t)(node << 8 | byte) << 32 | set->n_nodes++;
        node = (uint32_t)*slot;
    }
    set->starts[(unsigned char)content[0]] = true;
    /* Two contents may be one after normalisation: the first in the file is found. */
    if (set->end_of[node] < 0) set->end_of[node] = (int32_t)set->n;
    set->token[set->n++] = token;
}

/* The longest token at text[0..size): its index and length, or -1. */
static int32_t
longest_at(const sy_added_set *set, const char *text, size_t size, size_t *length) {
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < size; i++) {
        uint64_t slot = *edge_slot(set, node, (unsigned char)text[i]);
        if (slot == 0) break;
        node = (uint32_t)slot;
        if (set->end_of[node] >= 0) {
            best = set->end_of[node];
            *length = i + 1;
        }
    }
    return best;
}

static bool is_word_at(const sy_added_scan *scan, size_t from, size_t to) {
    return pcre2_match(scan->word, (PCRE2_SPTR)(scan->text + from), to - from, 0,
                       PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, scan->word_match, NULL) >= 0;
}

/* True if a word character touches text[start..end) on either side. */
static bool touches_word(const sy_added_scan *scan, size_t start, size_t end) {
    if (end < scan->size && is_word_at(scan, end, scan->size)) return true;
    if (start == 0) return false;
    size_t before = start - 1;
    while (before > 0 && ((unsigned char)scan->text[before] & 0xc0) == 0x80)
        before--;
    return is_word_at(scan, before, start);
}

/* End of the white space that follows `from`; a run is looked through once, however many tokens
 * lie in it. */
static size_t skip_white_space(sy_added_scan *scan, size_t from) {
    if (from >= scan->white_end)
        scan->white_end = from + sy_white_space_prefix(scan->text + from, scan->size - from);
    return scan->white_end;
}

void sy_added_next(sy_added_scan *scan, sy_added_hit *hit) {
    const sy_added_set *set = scan->set;
    while (scan->at < scan->size) {
        size_t start = scan->at, length = 0;
        if (!set->starts[(unsigned char)scan->text[start]]) {
            scan->at++;
            continue;
        }
        int32_t index = longest_at(set, scan->text + start, scan->size - start, &length);
        if (index < 0) {
            scan->at++;
            continue;
        }
        /* A match that is passed over below is not looked through for a shorter one. */
        size_t end = scan->at = start + length;
        const sy_added_token *token = &set->token[index];
        if (token->special && scan->no_specials) continue;
        if (token->single_word && touches_word(scan, start, end)) continue;
        if (token->lstrip && start > scan->start)
            start -= sy_white_space_suffix(scan->text + scan->start, start - scan->start);
        if (token->lstrip && start < scan->start) start = scan->start;
        if (token->rstrip) end = skip_white_space(scan, end);
        if (start >= end) continue; /* all of it is what an earlier one swallowed */

        hit->gap_start = scan->start;
        hit->gap_end = start > scan->start ? start : scan->start;
        hit->id = token->id;
        /* Tokens that begin with white space may lie inside what an earlier one swallowed; the
         * text goes on behind the last of them. */
        scan->start = end;
        return;
    }
    hit->gap_start = scan->start;
    hit->gap_end = scan->size;
    hit->id = -1;
    scan->start = scan->size;
}
