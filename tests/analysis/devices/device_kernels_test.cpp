#include "analysis/devices/device_kernels.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace moetap::analysis {
namespace {

class SomeKernels : public DeviceKernels {
 public:
  const RouterKernels& routers() const override { throw std::logic_error("there are none"); }
  bool is_capturing(c10::Device /*device*/) const override { return true; }
  int leave_captures() const override { return 0; }
  void return_to_captures(int /*before*/) const noexcept override {}
  void count_one(const at::Tensor& /*counter*/) const override {}
};

TEST(DeviceKernelsTest, ThereAreNoneForTheCpu) {
  EXPECT_EQ(device_kernels(c10::kCPU), nullptr);
}

TEST(DeviceKernelsTest, FindsThoseThatADeviceBrings) {
  EXPECT_EQ(device_kernels(c10::kPrivateUse1), nullptr);
  auto kernels = std::make_unique<const SomeKernels>();
  const DeviceKernels* registered = kernels.get();
  register_device_kernels(c10::kPrivateUse1, std::move(kernels));
  EXPECT_EQ(device_kernels(c10::kPrivateUse1), registered);
}

TEST(DeviceKernelsTest, CudaHasKernelsOrAReason) {
  const bool found = device_kernels(c10::kCUDA) != nullptr;
  EXPECT_EQ(cuda_kernels_error().empty(), found) << cuda_kernels_error();
}

}  // namespace
}  // namespace moetap::analysis
