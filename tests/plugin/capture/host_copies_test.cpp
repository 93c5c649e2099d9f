#include "plugin/capture/host_copies.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "plugin/capture/device_stream.h"
#include "tests/support/fake_device.h"

namespace moetap::plugin {
namespace {

using fake_device::kType;

class HostCopiesTest : public testing::Test {
 protected:
  HostCopiesTest() {
    fake_device::install();
    fake_device::set_eager(false);
  }
  ~HostCopiesTest() override { fake_device::run_until_idle(); }

  /// A forward that asks for 1024 bytes: the next ones get a block.
  void first_forward() {
    HostCopies copies(pools_);
    copies.zeros(device_, {128}, at::kLong);
    copies.finish_enqueuing();
  }

  const at::Device device_{kType, 0};
  std::shared_ptr<BlockPools> pools_ = std::make_shared<BlockPools>();
};

TEST_F(HostCopiesTest, TensorsOfTheHostPass) {
  HostCopies copies(pools_);
  const at::Tensor tensor = at::ones({2});
  EXPECT_TRUE(copies.copy(tensor).is_same(tensor));
  EXPECT_FALSE(copies.copy({}).defined());
  EXPECT_FALSE(copies.snapshot({}).defined());
  EXPECT_FALSE(copies.snapshot(tensor).is_alias_of(tensor));
  copies.finish_enqueuing();
  copies.wait();
}

TEST_F(HostCopiesTest, PiecesOfABlockAreCopiedAtOnce) {
  first_forward();
  HostCopies copies(pools_);
  const at::Tensor a = copies.zeros(device_, {4}, at::kLong), b = copies.empty(device_, {2}, at::kInt);
  a.fill_(3);
  b.fill_(7);
  fake_device::reset_counts();
  const at::Tensor on_host = copies.copy(a), other = copies.copy(b);
  copies.finish_enqueuing();
  EXPECT_EQ(fake_device::counts().copies_to_host, 1);
  EXPECT_TRUE(copies.in_host_block(on_host));
  EXPECT_TRUE(copies.in_host_block(other));
  EXPECT_GE(copies.host_bytes(), 1024);
  fake_device::run_until_idle();
  copies.wait();
  EXPECT_TRUE(at::equal(on_host, at::full({4}, 3, at::kLong)));
  EXPECT_TRUE(at::equal(other, at::full({2}, 7, at::kInt)));
}

TEST_F(HostCopiesTest, WhatFindsNoRoomIsCopiedByItself) {
  first_forward();
  HostCopies copies(pools_);
  const at::Tensor large = copies.zeros(device_, {1 << 20}, at::kLong);
  const at::Tensor on_host = copies.copy(large);
  copies.finish_enqueuing();
  EXPECT_FALSE(copies.in_host_block(on_host));
  fake_device::run_until_idle();
  copies.wait();
  EXPECT_EQ(on_host.abs().sum().item<int64_t>(), 0);
}

TEST_F(HostCopiesTest, CopiesWaitForMarkedStreams) {
  first_forward();
  HostCopies copies(pools_);
  const at::Tensor tensor = copies.zeros(device_, {1}, at::kLong);
  {
    const OnStream other(c10::impl::VirtualGuardImpl(kType).getNewStream(device_));
    tensor.fill_(5);
    copies.mark_stream(device_);
  }
  const at::Tensor on_host = copies.copy(tensor);
  copies.finish_enqueuing();
  // Runs what the copies wait for, and no more.
  c10::impl::VirtualGuardImpl(kType).synchronizeStream(pools_->of(device_).side_stream());
  EXPECT_EQ(on_host.item<int64_t>(), 5);
}

TEST_F(HostCopiesTest, AStreamCanBeMadeToWaitForTheOthers) {
  HostCopies copies(pools_);
  const at::Tensor tensor = at::zeros({1}, at::TensorOptions().dtype(at::kLong).device(device_));
  {
    const OnStream other(c10::impl::VirtualGuardImpl(kType).getNewStream(device_));
    tensor.fill_(5);
    copies.mark_stream(device_);
  }
  copies.wait_for_marked(device_);
  EXPECT_EQ(tensor.item<int64_t>(), 5) << "read on this thread's stream";
}

}  // namespace
}  // namespace moetap::plugin
