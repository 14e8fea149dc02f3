/* cuBLAS's product, as loops. The number of slices of K depends on m and n, as cuBLAS's choice of a
 * kernel does: who promises results that do not depend on the batch, and calls it, is found out. */
#include <atomic>
#include <cstring>
#include <new>

#include "inside.h"
#include "cublas_v2.h"

struct emu_cublas {
    cudaStream_t stream;
    char *workspace;
    size_t workspace_bytes;
};

namespace {

/* op(X) of a matrix in column-major order: element (i, j) is at i * by_row + j * by_column. */
struct matrix {
    char *data;
    cudaDataType type;
    size_t by_row, by_column;
};

std::atomic<unsigned long long> products;

} // namespace

unsigned long long emu_cublas_products(void) {
    return products;
}

static matrix make_matrix(const void *data, cudaDataType type, int ld, cublasOperation_t op) {
    size_t pitch = (size_t)ld;
    if (op == CUBLAS_OP_N) return {(char *)data, type, 1, pitch};
    return {(char *)data, type, pitch, 1};
}

static float get(const matrix &x, int i, int j) {
    size_t at = (size_t)i * x.by_row + (size_t)j * x.by_column;
    if (x.type == CUDA_R_32F) return ((const float *)(void *)x.data)[at];
    return __uint_as_float((unsigned)((const uint16_t *)(void *)x.data)[at] << 16);
}

static void put(const matrix &x, int i, int j, float value) {
    size_t at = (size_t)i * x.by_row + (size_t)j * x.by_column;
    unsigned u = __float_as_uint(value);
    if (x.type == CUDA_R_32F)
        ((float *)(void *)x.data)[at] = value;
    else
        ((uint16_t *)(void *)x.data)[at] =
            value != value ? (uint16_t)0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float dot(const matrix &a, const matrix &b, int i, int j, int k, int slices) {
    float sum = 0;
    for (int s = 0; s < slices; s++) {
        float part = 0;
        int end = (int)((int64_t)k * (s + 1) / slices);
        for (int at = (int)((int64_t)k * s / slices); at < end; at++)
            part += get(a, i, at) * get(b, at, j);
        sum += part;
    }
    return sum;
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *out) {
    *out = new (std::nothrow) emu_cublas{nullptr, nullptr, 0};
    return *out != nullptr ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = stream;
    handle->workspace = nullptr; /* a new stream has its own again */
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if ((uintptr_t)workspace % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
    handle->workspace = (char *)workspace;
    handle->workspace_bytes = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

/* What a product writes to both ends of its workspace: NaN as float and as bf16. It does so before
 * and after, which spoils operands and results that lie there. */
static void scribble(char *workspace, size_t bytes) {
    size_t n = bytes < 4096 ? bytes : 4096;
    if (workspace == nullptr) return;
    memset(workspace, 0xff, n);
    memset(workspace + bytes - n, 0xff, n);
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t) {
    return handle != nullptr ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

static bool known(cudaDataType type) {
    return type == CUDA_R_32F || type == CUDA_R_16BF;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle,
                            cublasOperation_t transpose_a,
                            cublasOperation_t transpose_b,
                            int m,
                            int n,
                            int k,
                            const void *alpha,
                            const void *a,
                            cudaDataType a_type,
                            int lda,
                            const void *b,
                            cudaDataType b_type,
                            int ldb,
                            const void *beta,
                            void *c,
                            cudaDataType c_type,
                            int ldc,
                            cublasComputeType_t compute,
                            cublasGemmAlgo_t) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || lda < (transpose_a == CUBLAS_OP_N ? m : k) ||
        ldb < (transpose_b == CUBLAS_OP_N ? k : n) || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!known(a_type) || !known(b_type) || !known(c_type) || compute != CUBLAS_COMPUTE_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const matrix ma = make_matrix(a, a_type, lda, transpose_a);
    const matrix mb = make_matrix(b, b_type, ldb, transpose_b);
    const matrix mc = make_matrix(c, c_type, ldc, CUBLAS_OP_N);
    float al = *(const float *)alpha, be = *(const float *)beta;
    int slices = 1 + (m + n) % 3;
    char *workspace = handle->workspace;
    size_t workspace_bytes = handle->workspace_bytes;
    products++;
    cudaError_t error = emu_enqueue(handle->stream, [=] {
        scribble(workspace, workspace_bytes);
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                float value = al * dot(ma, mb, i, j, k, slices);
                if (be != 0) value += be * get(mc, i, j); /* else C is not read */
                put(mc, i, j, value);
            }
        scribble(workspace, workspace_bytes);
        return true;
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
