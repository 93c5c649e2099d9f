#pragma once

// Marks of functions that run in kernels. MOETAP_HOST_DEVICE: on the host and on the device. MOETAP_DEVICE: in kernels
// only, which tests compile for the host (see warp.cuh).
#ifdef __CUDACC__
#define MOETAP_HOST_DEVICE __host__ __device__
#define MOETAP_DEVICE __device__
// In front of a loop over an array that must stay in registers.
#define MOETAP_UNROLL _Pragma("unroll")
#else
#define MOETAP_HOST_DEVICE
#define MOETAP_DEVICE
#define MOETAP_UNROLL
#endif
