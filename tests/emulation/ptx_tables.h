/* Which element of a matrix a lane's register holds, as NVIDIA's manual of the PTX instructions
 * says ("Matrix Fragments for mma.m16n8k16 with floating point type", "ldmatrix"), and typed from
 * there: nothing here comes from kernels/cuda, which is what is tested against it.
 *
 * i counts a lane's elements; those of 16 bits stand two to a register, the lower half first. */
#ifndef SY_EMULATION_PTX_TABLES_H
#define SY_EMULATION_PTX_TABLES_H

#include <stdint.h>

typedef struct ptx_element {
    int row, col;
} ptx_element;

/* A [16, 16], bf16, a0 .. a7:
 *   groupID = %laneid >> 2, threadID_in_group = %laneid % 4
 *   row = groupID      for ai where 0 <= i < 2 || 4 <= i < 6
 *         groupID + 8  otherwise
 *   col = (threadID_in_group * 2) + (i & 0x1)      for ai where i < 4
 *         (threadID_in_group * 2) + (i & 0x1) + 8  for ai where i >= 4 */
static inline ptx_element ptx_mma_a(int lane, int i) {
    ptx_element e;
    int group = lane >> 2, in_group = lane % 4;
    e.row = (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
    e.col = i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    return e;
}

/* B [16, 8], bf16, b0 .. b3:
 *   row = (threadID_in_group * 2) + (i & 0x1)      for bi where i < 2
 *         (threadID_in_group * 2) + (i & 0x1) + 8  for bi where i >= 2
 *   col = groupID */
static inline ptx_element ptx_mma_b(int lane, int i) {
    ptx_element e;
    int group = lane >> 2, in_group = lane % 4;
    e.row = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
    e.col = group;
    return e;
}

/* C and D [16, 8], f32, c0 .. c3:
 *   row = groupID      for ci where i < 2
 *         groupID + 8  for ci where i >= 2
 *   col = (threadID_in_group * 2) + (i & 0x1) */
static inline ptx_element ptx_mma_c(int lane, int i) {
    ptx_element e;
    int group = lane >> 2, in_group = lane % 4;
    e.row = i < 2 ? group : group + 8;
    e.col = in_group * 2 + (i & 1);
    return e;
}

/* ldmatrix .m8n8.x4 .b16: threads 8 j .. 8 j + 7 give the addresses of rows 0 .. 7 of matrix j,
 * which comes back in register j. Of each matrix a thread receives two elements of a row: threads
 * 0 .. 3 have row 0, threads 4 .. 7 row 1 and so on, in each row thread t of the four has columns
 * 2 t and 2 t + 1. */
static inline ptx_element ptx_ldmatrix(int lane, int i) {
    ptx_element e;
    e.row = lane / 4;
    e.col = lane % 4 * 2 + i;
    return e;
}

/* With .trans each matrix is loaded in column-major format: what is a row above is a column. */
static inline ptx_element ptx_ldmatrix_trans(int lane, int i) {
    ptx_element e;
    e.row = lane % 4 * 2 + i;
    e.col = lane / 4;
    return e;
}

/* fma.rn.bf16x2: a * b + c "in infinite precision", rounded once to nearest even; subnormal numbers
 * are supported; NaN results are canonical, 0x7fff. Worked out by hand from that and from bf16's
 * definition. */
static const struct ptx_fma_case {
    uint16_t a, b, c, d;
} ptx_fma_cases[] = {
    {0x3f80, 0x3f80, 0x0000, 0x3f80}, /* 1 * 1 + 0 = 1 */
    {0x4040, 0xc000, 0x40e0, 0x3f80}, /* 3 * -2 + 7 = 1 */
    {0x437f, 0x3f80, 0xc300, 0x42fe}, /* 255 - 128 = 127 */
    {0x4300, 0x3f80, 0xc380, 0xc300}, /* 128 - 256 = -128 */
    {0x4308, 0x3f80, 0xc308, 0x0000}, /* 136 - 136 = +0 */
    {0x3f80, 0x3f80, 0x3b80, 0x3f80}, /* 1 + 2^-8: the middle, to the even one below */
    {0x3f81, 0x3f80, 0x3b80, 0x3f82}, /* 1 + 2^-7 + 2^-8: to the even one above */
    {0x3f81, 0x3f81, 0xbf82, 0x3880}, /* (1 + 2^-7)^2 - (1 + 2^-6) = 2^-14: rounded once */
    {0x0040, 0x7e80, 0x8000, 0x3f00}, /* 2^-127 * 2^126 = 1/2: a subnormal operand */
    {0x8001, 0x7e80, 0x8000, 0xbc00}, /* -2^-133 * 2^126 = -2^-7: the smallest one */
    {0x0080, 0x3f00, 0x8000, 0x0040}, /* 2^-126 / 2 = 2^-127: a subnormal result */
    {0x3f80, 0x0000, 0x0001, 0x0001}, /* 0 + 2^-133 */
    {0x0000, 0x7b80, 0x8000, 0x0000}, /* 0 * 2^120 + -0 = +0 */
    {0x8000, 0x7b80, 0x8000, 0x8000}, /* -0 * 2^120 + -0 = -0 */
    {0x07e0, 0x7b80, 0x8000, 0x43e0}, /* 1.75 * 2^-112 * 2^120 = 448 */
    {0x7f7f, 0x4000, 0x0000, 0x7f80}, /* the largest, doubled: infinity */
    {0xff80, 0x3f80, 0x3f80, 0xff80}, /* -infinity + 1 */
    {0x7ff0, 0x7b80, 0x8000, 0x7fff}, /* NaN */
    {0x7f80, 0x0000, 0x3f80, 0x7fff}, /* infinity * 0 */
};

static inline int ptx_ldmatrix_row_of(int lane) {
    return lane % 8;
}
static inline int ptx_ldmatrix_matrix_of(int lane) {
    return lane / 8;
}

#endif
