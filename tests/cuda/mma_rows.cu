/* Does a row or column of a tensor core's product depend on what stands in the others?
 *
 * That a token's result has the same bits alone and in any batch rests on the answer no: a token is
 * a column of B (n of m16n8k16), wherever the batch puts it, and the other columns hold whatever
 * else is computed. For random tiles, a fixed column v is multiplied with a fixed A four times
 * over (K = 64, from a random start): alone at column 0, then at each of the 8 columns between
 * others of any bits, infinities and NaNs among them. The same for a row of A at each of the 16
 * rows. Every result must be equal, bit for bit.
 *
 * usage: mma_rows [TILES]       exit code 0: all equal, 1: not, 77: no device */
#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/ptx.h"

enum { STEPS = 4, ROWS = 16, COLUMNS = 8, K = 16, ALONE = -1 };

typedef struct outcome {
    unsigned compared, different;
    unsigned tile_plus_1; /* one of those with a difference, or 0 */
} outcome;

SY_DEVICE uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

/* Random bits of a tile's element; `which` tells fixed ones, other columns, other rows apart. */
SY_DEVICE uint32_t random_bits(unsigned tile, int which, int step, int line, int k) {
    uint32_t h = mix(tile + 0x9e3779b9u);
    h = mix(h ^ (uint32_t)(which + 2) * 0x01000193u);
    return mix(h ^ (uint32_t)((step * 32 + line) * 32 + k));
}

/* A bf16 of magnitude 2^-8 to 2^8: products of many sizes, so that adding them rounds. */
SY_DEVICE uint32_t ordinary(uint32_t bits) {
    return (bits & 0x807f) | (119 + (bits >> 16) % 16) << 7;
}

/* Element k of line `line` of an operand. The line `at` is the fixed one (drawn as line `drawn`);
 * the others are zero if it stands alone, else any 16 bits. */
SY_DEVICE uint32_t
element(unsigned tile, int variation, int step, int line, int at, int drawn, int k) {
    if (line == at) return ordinary(random_bits(tile, 0, step, drawn, k));
    return variation == ALONE ? 0 : random_bits(tile, variation + 1, step, line, k) >> 16;
}

/* The start of the sums: fixed for the fixed line, by its other coordinate. */
SY_DEVICE float start(unsigned tile, int variation, bool fixed, int other) {
    uint32_t bits = random_bits(tile, fixed ? 0 : variation + 1, STEPS, 31, other);
    return sy_bf16_float((uint16_t)ordinary(bits));
}

/* The product of a tile whose column (or row, by_row) `at` of B (of A) is the fixed one. All of
 * the other operand is fixed. result: [lines of the fixed one], in shared memory. */
SY_DEVICE void product(unsigned tile, bool by_row, int variation, int at, float *result) {
    int lane = (int)threadIdx.x, group = lane / 4, pair = lane % 4 * 2;
    float c[4];
    for (int i = 0; i < 4; i++) {
        int row = group + i / 2 * 8, column = pair + i % 2;
        c[i] = by_row ? start(tile, variation, row == at, column)
                      : start(tile, variation, column == at, row);
    }
    for (int step = 0; step < STEPS; step++) {
        uint32_t a[4], b[2];
        for (int i = 0; i < 4; i++) {
            int row = group + i % 2 * 8, k = pair + i / 2 * 8;
            int fixed_row = by_row ? at : row; /* by column every row of A is fixed */
            int drawn = by_row ? 16 : row;
            a[i] = element(tile, variation, step, row, fixed_row, drawn, k) |
                   element(tile, variation, step, row, fixed_row, drawn, k + 1) << 16;
        }
        for (int i = 0; i < 2; i++) {
            int column = group, k = pair + i * 8;
            int fixed_column = by_row ? column : at;
            int drawn = by_row ? 16 + column + 1 : 31;
            b[i] = element(tile, variation, step, column, fixed_column, drawn, k) |
                   element(tile, variation, step, column, fixed_column, drawn, k + 1) << 16;
        }
        sy_mma_bf16(c, a, b);
    }
    for (int i = 0; i < 4; i++) {
        int row = group + i / 2 * 8, column = pair + i % 2;
        if (by_row && row == at) result[column] = c[i];
        if (!by_row && column == at) result[row] = c[i];
    }
    __syncwarp();
}

/* One warp a tile: the fixed line alone at 0, then at every place among others. */
static __global__ void __launch_bounds__(32, 8) compare_tiles(outcome *out) {
    __shared__ float alone[ROWS], among[ROWS];
    unsigned tile = blockIdx.x, different = 0, compared = 0;
    for (int by_row = 0; by_row < 2; by_row++) {
        int places = by_row ? ROWS : COLUMNS, values = by_row ? COLUMNS : ROWS;
        product(tile, by_row, ALONE, 0, alone);
        for (int at = 0; at < places; at++) {
            product(tile, by_row, at, at, among);
            if ((int)threadIdx.x < values) {
                different +=
                    __float_as_uint(alone[threadIdx.x]) != __float_as_uint(among[threadIdx.x]);
                compared++;
            }
            __syncwarp();
        }
    }
    atomicAdd(&out->compared, compared);
    if (different == 0) return;
    atomicAdd(&out->different, different);
    atomicMax(&out->tile_plus_1, tile + 1);
}

static int failed(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return 0;
    fprintf(stderr, "mma_rows: %s: %s\n", what, cudaGetErrorString(error));
    return 1;
}

static int run(unsigned tiles, outcome *result) {
    outcome *device = NULL;
    cudaStream_t stream = NULL;
    int bad = failed(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                     "cudaStreamCreateWithFlags");
    if (!bad) bad = failed(cudaMalloc((void **)&device, sizeof *device), "cudaMalloc");
    if (!bad)
        bad = failed(cudaMemsetAsync(device, 0, sizeof *device, stream), "cudaMemsetAsync");
    if (!bad) {
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(tiles);
        config.blockDim = dim3(32);
        config.stream = stream;
        bad = failed(cudaLaunchKernelEx(&config, compare_tiles, device), "launch");
    }
    if (!bad)
        bad = failed(
            cudaMemcpyAsync(result, device, sizeof *result, cudaMemcpyDeviceToHost, stream),
            "cudaMemcpyAsync");
    if (!bad) bad = failed(cudaStreamSynchronize(stream), "compare_tiles");
    if (device != NULL) cudaFree(device);
    if (stream != NULL) cudaStreamDestroy(stream);
    return bad;
}

int main(int argc, char **argv) {
    long tiles = argc > 1 ? strtol(argv[1], NULL, 10) : 100000;
    int devices = 0;
    outcome result = {};
    if (tiles < 1 || tiles > 10000000) {
        fprintf(stderr, "usage: mma_rows [TILES], 1 to 10000000\n");
        return 2;
    }
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    if (run((unsigned)tiles, &result)) return 1;
    printf("%ld tiles, %u results compared, %u differ\n", tiles, result.compared,
           result.different);
    if (result.different > 0) printf("one of them: tile %u\n", result.tile_plus_1 - 1);
    return result.different > 0 || result.compared == 0;
}
