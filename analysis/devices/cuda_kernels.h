#pragma once

namespace moetap::analysis {

class RouterKernels;

// The kernels of each kind of hook, in the library of CUDA. Never destroyed: forwards may run while the process exits.
const RouterKernels& cuda_router_kernels();

}  // namespace moetap::analysis
