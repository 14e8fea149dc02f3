/* The published EPLB algorithm as a peer to compare with, written from its description: copies for
 * the experts whose copies are heaviest, then items by falling weight into the lightest pack that
 * is not full. The hierarchical form does so with groups over nodes, and within each node. Its own
 * measure is used: a copy counts weight / copies, and a rank may hold two copies of an expert. */
#ifndef SY_TESTS_EPLB_PEER_H
#define SY_TESTS_EPLB_PEER_H

#include <assert.h>
#include <stdlib.h>

typedef struct peer_item {
    double weight;
    int index;
} peer_item;

static int peer_heavier(const void *a, const void *b) {
    const peer_item *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->index - y->index;
}

/* pack[n]: the pack of each of n items, n / n_packs to a pack. */
static void peer_pack(int n, const double *weight, int n_packs, int *pack) {
    peer_item *item = calloc((size_t)n, sizeof *item);
    double *filled = calloc((size_t)n_packs, sizeof *filled);
    int *count = calloc((size_t)n_packs, sizeof *count);
    assert(item != NULL && filled != NULL && count != NULL && n % n_packs == 0);
    for (int i = 0; i < n; i++)
        item[i] = (peer_item){weight[i], i};
    qsort(item, (size_t)n, sizeof *item, peer_heavier);
    for (int i = 0; i < n; i++) {
        int lightest = -1;
        for (int k = 0; k < n_packs; k++)
            if (count[k] < n / n_packs && (lightest < 0 || filled[k] < filled[lightest]))
                lightest = k;
        pack[item[i].index] = lightest;
        filled[lightest] += item[i].weight;
        count[lightest]++;
    }
    free(item);
    free(filled);
    free(count);
}

/* expert[S]: the expert of each slot, rank by rank; of n experts with S >= n, S % n_ranks == 0.
 * first: added to the numbers of experts. */
static void
peer_global(int n, const double *weight, int S, int n_ranks, int first, int *expert) {
    int *copies = calloc((size_t)n, sizeof *copies), *of = calloc((size_t)S, sizeof *of);
    int *pack = calloc((size_t)S, sizeof *pack), *next = calloc((size_t)n_ranks, sizeof *next);
    double *share = calloc((size_t)S, sizeof *share);
    assert(copies != NULL && of != NULL && pack != NULL && next != NULL && share != NULL);
    for (int i = 0; i < S; i++) {
        int e = i;
        if (i >= n) {
            e = 0;
            for (int j = 1; j < n; j++)
                if (weight[j] / copies[j] > weight[e] / copies[e]) e = j;
        }
        of[i] = e;
        copies[e]++;
    }
    for (int i = 0; i < S; i++)
        share[i] = weight[of[i]] / copies[of[i]];
    peer_pack(S, share, n_ranks, pack);
    for (int i = 0; i < S; i++)
        expert[pack[i] * (S / n_ranks) + next[pack[i]]++] = first + of[i];
    free(copies);
    free(of);
    free(pack);
    free(next);
    free(share);
}

/* Groups of experts to nodes first; n_groups % n_nodes == 0, n % n_groups == 0. */
static void peer_hierarchical(int n,
                              const double *weight,
                              int S,
                              int n_ranks,
                              int n_groups,
                              int n_nodes,
                              int *expert) {
    int size = n / n_groups, per_node = n / n_nodes;
    double *of_group = calloc((size_t)n_groups, sizeof *of_group);
    double *mine = calloc((size_t)per_node, sizeof *mine);
    int *node = calloc((size_t)n_groups, sizeof *node), *id = calloc((size_t)n, sizeof *id);
    assert(of_group != NULL && mine != NULL && node != NULL && id != NULL);
    for (int e = 0; e < n; e++)
        of_group[e / size] += weight[e];
    peer_pack(n_groups, of_group, n_nodes, node);
    for (int k = 0; k < n_nodes; k++) {
        int m = 0, *slots = expert + k * (S / n_nodes);
        for (int e = 0; e < n; e++) {
            if (node[e / size] != k) continue;
            mine[m] = weight[e];
            id[m++] = e;
        }
        peer_global(m, mine, S / n_nodes, n_ranks / n_nodes, 0, slots);
        for (int i = 0; i < S / n_nodes; i++)
            slots[i] = id[slots[i]];
    }
    free(of_group);
    free(mine);
    free(node);
    free(id);
}

/* The largest rank's load over the mean, as EPLB counts: by copies, wherever they are. */
static double
peer_imbalance(int n, const double *weight, int S, int n_ranks, const int *expert) {
    int *copies = calloc((size_t)n, sizeof *copies);
    double most = 0, sum = 0;
    assert(copies != NULL);
    for (int i = 0; i < S; i++)
        copies[expert[i]]++;
    for (int r = 0; r < n_ranks; r++) {
        double load = 0;
        for (int i = r * (S / n_ranks); i < (r + 1) * (S / n_ranks); i++)
            load += weight[expert[i]] / copies[expert[i]];
        most = load > most ? load : most;
        sum += load;
    }
    free(copies);
    return sum > 0 ? most * n_ranks / sum : 1;
}

#endif
