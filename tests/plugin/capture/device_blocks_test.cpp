#include "plugin/capture/device_blocks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/fake_device.h"
#include "tests/support/fake_operators.h"

namespace moetap::plugin {
namespace {

using fake_device::kType;

class DeviceBlocksTest : public testing::Test {
 protected:
  ~DeviceBlocksTest() override { fake_device::run_until_idle(); }

  static at::Device installed_device() {
    fake_device::install();
    fake_device::set_eager(false);
    return {kType, 0};
  }

  const at::Device device_ = installed_device();  // before the pool, which asks the device for a stream
  BlockPool pool_{device_};
};

TEST_F(DeviceBlocksTest, PiecesDoNotOverlapAndHoldZeros) {
  DeviceBlock block(pool_.side_stream(), 256);
  const at::Tensor a = block.take({3}, at::kLong), b = block.take({5}, at::kInt);
  ASSERT_TRUE(a.defined() && b.defined());
  EXPECT_EQ(fake_device::on_cpu(a).abs().sum().item<int64_t>(), 0);
  fake_device::on_cpu(a).fill_(-1);
  EXPECT_EQ(fake_device::on_cpu(b).abs().sum().item<int64_t>(), 0);
  EXPECT_TRUE(block.holds(a));
  EXPECT_FALSE(block.holds(at::empty({1}, a.options())));
  EXPECT_FALSE(block.take({100}, at::kLong).defined()) << "no room";
  EXPECT_GE(block.asked(), 64 + 64 + 800) << "what found no room counts";
  EXPECT_EQ(block.used(), 256);
}

TEST_F(DeviceBlocksTest, ABlockIsUsedAgainOnceItsPiecesAreGoneAndItIsReset) {
  EXPECT_EQ(pool_.take(), nullptr) << "nobody knows how large";
  pool_.asked(100);
  std::shared_ptr<DeviceBlock> block = pool_.take();
  at::Tensor piece = block->take({4}, at::kLong);
  const void* memory = piece.data_ptr();
  fake_device::on_cpu(piece).fill_(9);
  block->reset();
  block.reset();
  EXPECT_NE(pool_.take()->take({4}, at::kLong).data_ptr(), memory) << "somebody holds a piece";
  piece = at::Tensor();
  fake_device::run_until_idle();
  std::vector<std::shared_ptr<DeviceBlock>> taken;
  bool again = false;
  for (int i = 0; i < 3 && !again; ++i) {
    taken.push_back(pool_.take());
    const at::Tensor first = taken.back()->take({4}, at::kLong);
    again = first.data_ptr() == memory;
    EXPECT_EQ(fake_device::on_cpu(first).abs().sum().item<int64_t>(), 0);
  }
  EXPECT_TRUE(again);
}

TEST_F(DeviceBlocksTest, ASpoiledBlockIsNeverUsedAgain) {
  pool_.asked(100);
  std::shared_ptr<DeviceBlock> block = pool_.take();
  const void* memory = block->take({4}, at::kLong).data_ptr();
  block->spoil();
  const std::shared_ptr<DeviceBlock> kept = block;  // so that its memory is not given away
  block.reset();
  for (int i = 0; i < 3; ++i) EXPECT_NE(pool_.take()->take({4}, at::kLong).data_ptr(), memory);
}

TEST_F(DeviceBlocksTest, HostMemoryIsSharedByNobodyAndUsedAgain) {
  fake_device::reset_counts();
  at::Tensor first = pool_.take_host(100);
  const at::Tensor second = pool_.take_host(100);
  EXPECT_NE(first.data_ptr(), second.data_ptr());
  EXPECT_TRUE(first.is_pinned());
  first = at::Tensor();
  pool_.take_host(50);
  EXPECT_EQ(fake_device::counts().pinned_allocations, 2);
}

TEST_F(DeviceBlocksTest, MemoryCanBeTakenWhileAGraphIsCaptured) {
  pool_.asked(100);
  fake_device::begin_capture();
  EXPECT_NO_THROW(pool_.take());
  EXPECT_NO_THROW(pool_.take_host(100));
  fake_device::end_capture();
}

TEST_F(DeviceBlocksTest, EachDeviceHasAPool) {
  BlockPools pools;
  EXPECT_EQ(&pools.of({kType, 0}), &pools.of({kType, 0}));
  EXPECT_NE(&pools.of({kType, 0}), &pools.of({kType, 1}));
}

}  // namespace
}  // namespace moetap::plugin
