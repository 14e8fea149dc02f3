/* The report as a picture: a card for each machine with its memory, the cores of each NUMA node in
 * the colours of the ranks that are bound to them, devices and NICs; below, the advice.
 *
 * One pass writes the elements of a card while it moves down the page, into memory, since the card's
 * frame is drawn first and must be as high as what is in it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "launcher/topo_report.h"
#include "launcher/topo_words.h"

/* Pixels. A text of 12 px takes about 6.4 px for a character of the common sans-serif fonts. */
enum {
    CARD = 664,
    PAD = 16,
    GAP = 20,
    LINE = 18,
    CORE = 12,
    CORE_STEP = 15,
    CHARACTER_TENTHS = 64
};
enum { COLOURS = 8, MOST_COLUMNS = 3 };

static const char style[] =
    "<style>\n"
    "svg{font:12px system-ui,sans-serif;background:var(--page)}\n"
    ":root,svg{--page:#f6f7f9;--card:#fff;--line:#c9ced6;--ink:#1c2430;--soft:#5a6575;"
    "--box:#eef1f5;--fill:#6b89b5;--cache:#b9c8df;--bad:#b3261e;--good:#1b7f4b}\n"
    "@media (prefers-color-scheme:dark){:root,svg{--page:#14171c;--card:#1d2229;--line:#3b4350;"
    "--ink:#e7ebf0;--soft:#9aa5b4;--box:#272d36;--fill:#5d80b4;--cache:#3c5070;--bad:#ff8a80;"
    "--good:#5fd39a}}\n"
    "text{fill:var(--ink)}.soft{fill:var(--soft)}.title{font-size:15px;font-weight:600}\n"
    ".on{fill:#fff;font-weight:600}.bad{fill:var(--bad)}.good{fill:var(--good)}\n"
    ".bow{fill:none;stroke:var(--soft)}\n"
    ".card{fill:var(--card);stroke:var(--line)}.box{fill:var(--box);stroke:var(--line)}\n"
    ".fill{fill:var(--fill)}.cache{fill:var(--cache)}.idle{fill:none;stroke:var(--line)}\n"
    ".r0{fill:#2f6db5}.r1{fill:#b8570b}.r2{fill:#2b8448}.r3{fill:#a63c8b}\n"
    ".r4{fill:#6a5acd}.r5{fill:#8a6d00}.r6{fill:#0f7f86}.r7{fill:#b23a48}\n"
    "</style>\n";

typedef struct canvas {
    FILE *f;
    int y; /* where the next element goes */
} canvas;

/* ---- elements ---- */

static void put_escaped(FILE *f, const char *text) {
    for (; *text != '\0'; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", f);
            break;
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '"':
            fputs("&quot;", f);
            break;
        default:
            fputc(*text, f);
        }
}

/* Cut with ".." to fit `width` pixels; the whole is shown when pointed at. */
static void put_text(canvas *c, int x, int width, const char *class, const char *text) {
    char cut[SY_TOPO_LINE];
    size_t room = (size_t)(width * 10 / CHARACTER_TENTHS), n = strlen(text);
    if (room > sizeof cut - 1) room = sizeof cut - 1;
    if (n > room)
        snprintf(cut, sizeof cut, "%.*s..", (int)room - 2, text);
    else
        snprintf(cut, sizeof cut, "%s", text);
    fprintf(c->f, "<text x=\"%d\" y=\"%d\" class=\"%s\">", x, c->y + LINE - 5, class);
    if (n > room) {
        fputs("<title>", c->f);
        put_escaped(c->f, text);
        fputs("</title>", c->f);
    }
    put_escaped(c->f, cut);
    fputs("</text>\n", c->f);
}

static void put_box(canvas *c, int x, int y, int width, int height, const char *class) {
    fprintf(c->f,
            "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\" class=\"%s\"/>\n", x,
            y, width, height, class);
}

/* Words over several lines, each of at most `width` pixels. */
static void put_paragraph(canvas *c, int x, int width, const char *class, const char *text) {
    size_t room = (size_t)(width * 10 / CHARACTER_TENTHS);
    char line[SY_TOPO_LINE];
    if (room > sizeof line - 1) room = sizeof line - 1;
    while (*text != '\0') {
        size_t n = strlen(text);
        if (n > room) {
            n = room;
            while (n > 0 && text[n] != ' ')
                n--;
            if (n == 0) n = room;
        }
        memcpy(line, text, n);
        line[n] = '\0';
        put_text(c, x, width + 12, class, line);
        c->y += LINE;
        text += n;
        text += strspn(text, " ");
    }
}

/* ---- a card ---- */

static void draw_memory(canvas *c, int x, int width, const sy_machine *m) {
    char text[SY_TOPO_LINE];
    double total = m->memory > 0 ? (double)m->memory : 1;
    double used = total - (double)m->memory_available, cache = (double)m->page_cache;
    if (used < 0) used = 0;
    int used_px = (int)(used / total * width), cache_px = (int)(cache / total * width);
    if (cache_px > width - used_px) cache_px = width - used_px;
    put_text(c, x, width, "", sy_topo_memory(m, text));
    c->y += LINE + 2;
    put_box(c, x, c->y, width, 8, "box");
    if (used_px > 0) put_box(c, x, c->y, used_px, 8, "fill");
    if (cache_px > 0) put_box(c, x + used_px, c->y, cache_px, 8, "cache");
    c->y += 18;
}

/* The rank of a machine that is bound to a core, or -1. */
static int rank_of_core(const sy_topo_report *t, int machine, const sy_machine_core *core) {
    const sy_binding *b = t->binding;
    for (int r = 0; r < b->n_ranks; r++)
        if (b->rank[r].machine == machine && b->rank[r].bound &&
            sy_cpus_has(&b->rank[r].cpus, core->cpu[0]))
            return r;
    return -1;
}

static void draw_core(canvas *c, int x, const sy_machine_core *core, int rank) {
    char class[8] = "idle";
    int size = core->kind == SY_CORE_EFFICIENCY ? CORE - 4 : CORE, shift = (CORE - size) / 2;
    const char *kind = sy_core_kind_name(core->kind);
    if (rank >= 0) snprintf(class, sizeof class, "r%d", rank % COLOURS);
    fprintf(c->f,
            "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" class=\"%s\"><title>CPU %d",
            x + shift, c->y + shift, size, size, class, core->cpu[0]);
    for (int t = 1; t < core->n_cpus; t++)
        fprintf(c->f, ", %d", core->cpu[t]);
    if (kind != NULL) fprintf(c->f, ", %s core", kind);
    if (rank >= 0) fprintf(c->f, ", rank %d", rank);
    fputs("</title></rect>\n", c->f);
}

static void
draw_cores(canvas *c, int x, int width, const sy_topo_report *t, int machine, int node) {
    const sy_machine *m = &t->machines->machine[machine];
    int column = 0, columns = width / CORE_STEP;
    for (int i = 0; i < m->n_cores; i++) {
        if (m->core[i].node != node) continue;
        if (column == columns) {
            column = 0;
            c->y += CORE_STEP;
        }
        draw_core(c, x + column++ * CORE_STEP, &m->core[i],
                  rank_of_core(t, machine, &m->core[i]));
    }
    if (column > 0) c->y += CORE_STEP + 4;
}

/* The rank that a device belongs to first, or -1. */
static int first_rank_on(const sy_binding *b, int machine, int device) {
    for (int r = 0; r < b->n_ranks; r++)
        if (b->rank[r].machine == machine && b->rank[r].device == device) return r;
    return -1;
}

static void
draw_device(canvas *c, int x, int width, const sy_topo_report *t, int machine, int d) {
    char text[SY_TOPO_LINE], ranks[SY_TOPO_LINE], class[8];
    const sy_machine *m = &t->machines->machine[machine];
    int first = first_rank_on(t->binding, machine, d);
    sy_topo_ranks_on(t->binding, machine, d, ranks);
    put_box(c, x, c->y, width, LINE + 4, "box");
    if (first >= 0) {
        snprintf(class, sizeof class, "r%d", first % COLOURS);
        put_box(c, x, c->y, 74, LINE + 4, class);
        c->y += 2;
        put_text(c, x + 8, 62, "on", ranks);
    } else {
        c->y += 2;
        put_text(c, x + 8, 62, "soft", "no rank");
    }
    put_text(c, x + 84, width - 90, "", sy_topo_device(&m->device[d], text));
    c->y += LINE + 6;
}

static void draw_nic(canvas *c, int x, int width, const sy_machine_nic *nic) {
    char text[SY_TOPO_LINE];
    const char *class = sy_nic_in_use(nic) ? "good" : "idle";
    fprintf(c->f, "<circle cx=\"%d\" cy=\"%d\" r=\"5\" class=\"%s\"/>\n", x + 20, c->y + 9,
            class);
    put_text(c, x + 32, 104, "", sy_nic_name(nic));
    put_text(c, x + 140, width - 140, "soft", sy_topo_nic(nic, text));
    c->y += LINE;
}

/* A bow from one twin to the other, whose dots are at these heights. */
static void draw_twins(canvas *c, int x, int y1, int y2) {
    fprintf(c->f, "<path d=\"M%d %dC%d %d %d %d %d %d\" class=\"bow\"/>\n", x + 14, y1, x - 2,
            y1, x - 2, y2, x + 14, y2);
}

static bool on_node(const sy_machine_pci *pci, const sy_machine *m, int n) {
    if (pci->node < 0) return n == 0;
    return pci->node == m->node[n].number;
}

static void draw_nics(canvas *c, int x, int width, const sy_machine *m, int n) {
    int at[SY_MACHINE_NICS] = {0};
    for (int i = 0; i < m->n_nics; i++) {
        if (!on_node(&m->nic[i].pci, m, n)) continue;
        at[i] = c->y + LINE / 2;
        int twin = m->nic[i].twin;
        if (twin >= 0 && twin < i && at[twin] > 0) draw_twins(c, x, at[twin], at[i]);
        draw_nic(c, x, width, &m->nic[i]);
    }
}

static void
draw_node(canvas *c, int x, int width, const sy_topo_report *t, int machine, int n) {
    const sy_machine *m = &t->machines->machine[machine];
    const sy_machine_node *node = &m->node[n];
    char text[2 * SY_TOPO_LINE], cores[SY_TOPO_LINE], bytes[24];
    snprintf(text, sizeof text, "NUMA node %d: %s, %s", node->number,
             sy_format_bytes(bytes, sizeof bytes, node->memory),
             node->of_device ? "a device's memory" : sy_topo_cores(m, node->number, cores));
    put_text(c, x, width, "", text);
    c->y += LINE + 2;
    draw_cores(c, x, width, t, machine, node->number);
    for (int d = 0; d < m->n_devices; d++)
        if (on_node(&m->device[d].pci, m, n)) draw_device(c, x, width, t, machine, d);
    draw_nics(c, x, width, m, n);
    c->y += 8;
}

/* Ranks without a device, which no other line of the card names. */
static void draw_cpu_ranks(canvas *c, int x, int width, const sy_topo_report *t, int machine) {
    int used = 0;
    for (int r = 0; r < t->binding->n_ranks; r++) {
        const sy_bound_rank *rank = &t->binding->rank[r];
        if (rank->machine != machine || rank->device >= 0) continue;
        if (used + 74 > width) {
            used = 0;
            c->y += LINE + 8;
        }
        char text[32], class[8];
        snprintf(text, sizeof text, "rank %d", r);
        snprintf(class, sizeof class, "r%d", r % COLOURS);
        put_box(c, x + used, c->y, 66, LINE + 4, rank->bound ? class : "box");
        c->y += 2;
        put_text(c, x + used + 8, 58, rank->bound ? "on" : "soft", text);
        c->y -= 2;
        used += 74;
    }
    if (used > 0) c->y += LINE + 12;
}

static void draw_card(canvas *c, int x, const sy_topo_report *t, int machine) {
    const sy_machine *m = &t->machines->machine[machine];
    int inner = CARD - 2 * PAD;
    c->y += PAD - 4;
    put_text(c, x + PAD, inner, "title", m->name);
    c->y += LINE + 2;
    put_text(c, x + PAD, inner, "soft", m->cpu);
    c->y += LINE;
    draw_memory(c, x + PAD, inner, m);
    for (int n = 0; n < m->n_nodes; n++)
        draw_node(c, x + PAD, inner, t, machine, n);
    draw_cpu_ranks(c, x + PAD, inner, t, machine);
    c->y += PAD - 8;
}

/* ---- the page ---- */

/* A row of cards, all as high as the highest; *y moves below it. */
static sy_status draw_row(FILE *page, const sy_topo_report *t, int first, int n, int *y) {
    sy_status st = SY_OK;
    int bottom = *y;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (f == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the picture");
    for (int i = 0; i < n; i++) {
        canvas c = {f, *y};
        draw_card(&c, GAP + i * (CARD + GAP), t, first + i);
        bottom = (int)sy_max(bottom, c.y);
    }
    int error = fclose(f);
    for (int i = 0; i < n && error == 0; i++) {
        canvas c = {page, 0};
        put_box(&c, GAP + i * (CARD + GAP), *y, CARD, bottom - *y, "card");
    }
    if (error == 0) fputs(text, page);
    *y = bottom + GAP;
    if (error != 0) st = sy_fail(SY_ERR_MEMORY, "no memory for the picture");
done:
    free(text);
    return st;
}

static void draw_advice(canvas *c, int width, const sy_topo_report *t) {
    char where[160], line[SY_ADVICE_TEXT + 256];
    for (int i = 0; i < t->advice->n; i++) {
        const sy_advice_item *item = &t->advice->item[i];
        bool warning = item->level == SY_ADVICE_WARNING;
        sy_advice_where(item, t->machines, where, sizeof where);
        snprintf(line, sizeof line, "%s%s%s: %s", warning ? "Warning" : "Note",
                 where[0] != '\0' ? " on " : "", where, item->text);
        put_paragraph(c, GAP, width, warning ? "bad" : "", line);
        put_paragraph(c, GAP + 16, width - 16, "soft", item->cure);
        c->y += 6;
    }
}

/* Everything inside of the <svg> element, which needs the height. */
static sy_status draw_page(FILE *page, const sy_topo_report *t, int columns, int *height) {
    sy_status st = SY_OK;
    int width = columns * (CARD + GAP) - GAP;
    canvas c = {page, GAP};
    for (int m = 0; m < t->machines->n; m += columns)
        SY_TRY(draw_row(page, t, m, (int)sy_min(columns, t->machines->n - m), &c.y));
    draw_advice(&c, width, t);
    *height = c.y + GAP;
done:
    return st;
}

sy_status sy_topo_draw_svg(const sy_topo_report *t, char **out) {
    sy_status st = SY_OK;
    char *body = NULL;
    size_t body_size = 0, size = 0;
    int columns = (int)sy_min(t->machines->n, MOST_COLUMNS), height = 0;
    FILE *f = NULL, *page = open_memstream(&body, &body_size);
    *out = NULL;
    if (page == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the picture");
    st = draw_page(page, t, columns, &height);
    if (fclose(page) != 0 && st == SY_OK)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the picture");
    SY_TRY(st);
    f = open_memstream(out, &size);
    if (f == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the picture");
    int width = columns * (CARD + GAP) + GAP;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\">\n%s%s</svg>\n",
            width, height, width, height, style, body);
    if (fclose(f) != 0) SY_FAIL(SY_ERR_MEMORY, "no memory for the picture");
done:
    if (st != SY_OK) {
        free(*out);
        *out = NULL;
    }
    free(body);
    return st;
}
