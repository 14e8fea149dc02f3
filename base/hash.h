/* A 64-bit mix used for step hashes, identities and counter-based random numbers. Not
 * cryptographic. The values are part of the sampling contract: changing them changes results. */
#ifndef SY_BASE_HASH_H
#define SY_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection with good avalanche. */
static inline uint64_t sy_mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Folds one word into a running hash. */
static inline uint64_t sy_hash_add(uint64_t hash, uint64_t word) {
    return sy_mix64(hash + 0x9e3779b97f4a7c15u + sy_mix64(word + 0x632be59bd9b4e019u));
}

static inline uint64_t sy_hash_bytes(uint64_t hash, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return sy_hash_add(hash, n);
}

/* A uniform number in [0, 1) with 24 bits, as a function of a key and a counter. */
static inline float sy_uniform(uint64_t key, uint64_t counter) {
    return (float)(sy_hash_add(key, counter) >> 40) * 0x1p-24f;
}

#endif
