#pragma once

namespace moetap::analysis {

class AttentionDeviceKernels;
class RouterKernels;

// The kernels of each kind of hook in the CUDA library. Never destroyed: forwards may run while the process exits.
const RouterKernels& cuda_router_kernels();
const AttentionDeviceKernels& cuda_attention_kernels();

}  // namespace moetap::analysis
