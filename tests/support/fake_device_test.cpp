#include "fake_device.h"
#include "plugin/capture/device_stream.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fake_operators.h"
#include "fake_streams.h"

namespace moetap::fake_device {
namespace {

using plugin::OnStream;

const at::TensorOptions kLongs = at::kLong;
const at::TensorOptions kPinned = kLongs.pinned_memory(true);

/// The first element as it is in memory now, without a wait.
int64_t peek(const at::Tensor& tensor) {
  return on_cpu(tensor).flatten()[0].item<int64_t>();
}

class FakeDeviceTest : public testing::Test {
 protected:
  FakeDeviceTest() {
    install();
    run_until_idle();
    set_eager(false);
    reset_counts();
  }
  ~FakeDeviceTest() override {
    set_eager(false);
    run_until_idle();
  }

  static const c10::impl::VirtualGuardImpl& guard() {
    static const c10::impl::VirtualGuardImpl guard(kType);
    return guard;
  }

  const at::NoGradGuard no_gradients_;
  const at::Device device_{kType, 0}, other_device_{kType, 1};
};

TEST_F(FakeDeviceTest, NothingRunsBeforeSomebodyWaits) {
  const at::Tensor tensor = at::empty({4}, kLongs.device(device_));
  const at::Tensor host = at::empty({4}, kPinned);
  const int64_t unwritten = peek(tensor);
  host.fill_(-7);
  tensor.fill_(5);
  host.copy_(tensor, /*non_blocking=*/true);
  EXPECT_EQ(peek(tensor), unwritten);
  EXPECT_EQ(peek(host), -7);
  const c10::Stream stream = guard().getStream(device_);
  EXPECT_FALSE(guard().queryStream(stream));
  EXPECT_TRUE(run_next(stream));
  EXPECT_EQ(peek(tensor), 5);
  EXPECT_EQ(peek(host), -7);
  EXPECT_TRUE(run_next(stream));
  EXPECT_EQ(peek(host), 5);
  EXPECT_TRUE(guard().queryStream(stream));
  EXPECT_FALSE(run_next(stream));
}

TEST_F(FakeDeviceTest, FreshMemoryDoesNotLookWritten) {
  EXPECT_EQ(peek(at::empty({2}, kLongs.device(device_))), static_cast<int64_t>(0xA5A5A5A5A5A5A5A5));
  EXPECT_EQ(peek(at::empty({2}, kPinned)), static_cast<int64_t>(0xA5A5A5A5A5A5A5A5));
}

TEST_F(FakeDeviceTest, EagerRunsAtOnce) {
  const at::Tensor tensor = at::zeros({1}, kLongs.device(device_));
  set_eager(true);
  EXPECT_EQ(peek(tensor), 0);
  tensor.fill_(3);
  EXPECT_EQ(peek(tensor), 3);
  c10::Event event(kType);
  event.record(guard().getStream(device_));
  EXPECT_TRUE(event.query());
}

TEST_F(FakeDeviceTest, AWaitRunsWhatItNeedsAndNoMore) {
  std::string ran;
  const auto append = [&](char letter) { return [&ran, letter] { ran += letter; }; };
  const c10::Stream a = guard().getNewStream(device_), b = guard().getNewStream(device_);
  c10::Event of_a(kType), of_b(kType);
  EXPECT_TRUE(of_a.query()) << "never recorded";
  enqueue(a, append('1'));
  of_a.record(a);
  enqueue(a, append('2'));
  enqueue(b, append('3'));
  of_a.block(b);
  enqueue(b, append('4'));
  of_b.record(b);
  EXPECT_FALSE(of_a.query());
  EXPECT_FALSE(of_b.query());
  EXPECT_EQ(ran, "");
  of_b.synchronize();
  EXPECT_EQ(ran, "314");
  EXPECT_TRUE(of_a.query());
  EXPECT_TRUE(of_b.query());
  EXPECT_FALSE(guard().queryStream(a));
  guard().synchronizeStream(b);
  EXPECT_EQ(ran, "314");
  guard().synchronizeStream(a);
  EXPECT_EQ(ran, "3142");
}

TEST_F(FakeDeviceTest, AnEventMeansItsLastRecord) {
  std::string ran;
  const c10::Stream a = guard().getNewStream(device_), b = guard().getNewStream(device_);
  {
    c10::Event event(kType);
    enqueue(a, [&] { ran += '1'; });
    event.record(a);
    event.block(b);  // for the first record, whatever follows it
    enqueue(a, [&] { ran += '2'; });
    event.record(a);
    guard().synchronizeStream(b);
    EXPECT_EQ(ran, "1");
    EXPECT_FALSE(event.query());
    event.synchronize();
    EXPECT_EQ(ran, "12");
    enqueue(a, [&] { ran += '3'; });
    event.record(a);
    event.block(b);
  }
  guard().synchronizeStream(b);  // though the event is gone
  EXPECT_EQ(ran, "123");
}

TEST_F(FakeDeviceTest, ChainsOfWaitsEndHoweverLong) {
  const c10::Stream a = guard().getNewStream(device_), b = guard().getNewStream(other_device_);
  int64_t sum = 0;
  c10::Event event(kType), other_event(kType);
  for (int i = 0; i < 1000; ++i) {
    enqueue(a, [&] { sum = 2 * sum % 1009 + 1; });
    event.record(a);
    event.block(b);
    enqueue(b, [&] { sum = 3 * sum % 1009; });
    other_event.record(b);
    other_event.block(a);
  }
  int64_t expected = 0;
  for (int i = 0; i < 1000; ++i) expected = 3 * (2 * expected % 1009 + 1) % 1009;
  guard().synchronizeStream(a);
  EXPECT_EQ(sum, expected);
}

TEST_F(FakeDeviceTest, StreamsOfDevicesAndThreads) {
  EXPECT_EQ(guard().getStream(device_), guard().getDefaultStream(device_));
  EXPECT_NE(guard().getStreamFromGlobalPool(device_), guard().getStreamFromGlobalPool(device_));
  const c10::Stream stream = guard().getNewStream(device_);
  EXPECT_NE(stream, guard().getNewStream(device_));
  const OnStream on_stream(stream);
  EXPECT_EQ(guard().getStream(device_), stream);
  EXPECT_EQ(guard().getStream(other_device_), guard().getDefaultStream(other_device_));
  std::thread([&] { EXPECT_EQ(guard().getStream(device_), guard().getDefaultStream(device_)); }).join();

  const at::Tensor here = at::empty({1}, kLongs.device(device_)), there = at::empty({1}, kLongs.device(other_device_));
  EXPECT_EQ(there.device(), other_device_);
  here.fill_(1);
  there.fill_(2);
  const int64_t unwritten = peek(here);
  guard().synchronizeDevice(1);
  EXPECT_EQ(peek(here), unwritten);
  EXPECT_EQ(peek(there), 2);
  guard().synchronizeDevice(0);
  EXPECT_EQ(peek(here), 1);

  EXPECT_EQ(at::empty({1}, kLongs.device(kType)).device(), device_) << "the current device";
  const c10::DeviceGuard on_other(other_device_);
  EXPECT_EQ(at::empty({1}, kLongs.device(kType)).device(), other_device_);
  EXPECT_THROW(at::empty({1}, kLongs.device(at::Device(kType, 2))), c10::Error);
}

TEST_F(FakeDeviceTest, CopiesBetweenDevicesAreInTheOrderOfBothStreams) {
  const at::Tensor here = at::empty({1}, kLongs.device(device_)), there = at::empty({1}, kLongs.device(other_device_));
  here.fill_(1);
  there.fill_(2);
  there.copy_(here);
  here.fill_(3);
  guard().synchronizeStream(guard().getStream(other_device_));
  EXPECT_EQ(peek(there), 1);
  EXPECT_EQ(counts().copies_on_device, 1);
  EXPECT_EQ(counts().synchronizations, 1);
  there.fill_(4);
  there.copy_(here);
  guard().synchronizeStream(guard().getStream(device_));
  run_until_idle();
  EXPECT_EQ(peek(there), 3) << "not 4";
}

TEST_F(FakeDeviceTest, PinnedMemoryIsCopiedWhileTheHostGoesOn) {
  const at::Tensor pinned = at::full({4}, 1, kPinned), pageable = at::full({4}, 1, kLongs);
  EXPECT_TRUE(pinned.is_pinned());
  EXPECT_TRUE(pinned.slice(0, 2).is_pinned());
  EXPECT_FALSE(pageable.is_pinned());
  EXPECT_TRUE(pageable.pin_memory().is_pinned());
  EXPECT_EQ(counts().pinned_allocations, 2);
  const at::Tensor from_pinned = pinned.to(device_, /*non_blocking=*/true);
  const at::Tensor from_pageable = pageable.to(device_, /*non_blocking=*/true);
  EXPECT_EQ(counts().synchronizations, 0);
  pinned.fill_(2);  // too early
  pageable.fill_(2);
  run_until_idle();
  EXPECT_EQ(peek(from_pinned), 2);
  EXPECT_EQ(peek(from_pageable), 1);

  from_pinned.fill_(9);
  pageable.copy_(from_pinned, /*non_blocking=*/true);  // in vain: the host's memory is not pinned
  EXPECT_EQ(peek(pageable), 9);
  EXPECT_EQ(counts().synchronizations, 1);
}

TEST_F(FakeDeviceTest, ABlockingCopyWaitsForItsStreamAlone) {
  const at::Tensor tensor = at::empty({1}, kLongs.device(device_));
  {
    const OnStream on_stream(guard().getNewStream(device_));
    tensor.fill_(4);
  }
  EXPECT_NE(tensor.cpu().item<int64_t>(), 4) << "the other stream was not waited for";
  run_until_idle();
  EXPECT_EQ(tensor.cpu().item<int64_t>(), 4);
  EXPECT_EQ(tensor.item<int64_t>(), 4);
}

TEST_F(FakeDeviceTest, OperationsDoNotWaitForOtherStreams) {
  const at::Tensor tensor = at::empty({1}, kLongs.device(device_));
  const c10::Stream stream = guard().getNewStream(device_);
  {
    const OnStream on_stream(stream);
    tensor.fill_(4);
  }
  EXPECT_NE((tensor + 1).item<int64_t>(), 5);
  c10::Event event(kType);
  event.record(stream);
  event.block(guard().getStream(device_));
  EXPECT_EQ((tensor + 1).item<int64_t>(), 5);
}

TEST_F(FakeDeviceTest, CountsEachThingOnce) {
  const at::Tensor tensor = at::empty({4}, kLongs.device(device_));
  const at::Tensor host = at::empty({4}, kPinned);
  const c10::Stream stream = guard().getStream(device_);
  c10::Event event(kType);
  tensor.zero_();
  tensor.fill_(1);
  enqueue(stream, [] {});
  event.record(stream);
  host.copy_(tensor, /*non_blocking=*/true);
  tensor.copy_(host, /*non_blocking=*/true);
  tensor.slice(0, 0, 2).copy_(tensor.slice(0, 2, 4));
  EXPECT_TRUE(at::add(tensor, 1).defined());
  static_cast<void>(event.query());
  Counts actual = counts();
  EXPECT_EQ(actual.allocations, 2) << "of the sum as well";
  EXPECT_EQ(actual.pinned_allocations, 1);
  EXPECT_EQ(actual.fills, 2);
  EXPECT_EQ(actual.kernels, 1);
  EXPECT_EQ(actual.copies_to_host, 1);
  EXPECT_EQ(actual.copies_to_device, 1);
  EXPECT_EQ(actual.copies_on_device, 1);
  EXPECT_EQ(actual.operations, 1);
  EXPECT_EQ(actual.synchronizations, 0);

  reset_counts();
  event.synchronize();
  guard().synchronizeStream(stream);
  guard().synchronizeDevice(0);
  host.copy_(tensor);
  tensor.copy_(host);
  EXPECT_EQ(tensor[0].item<int64_t>(), 1);
  actual = counts();
  EXPECT_EQ(actual.synchronizations, 6);
  EXPECT_EQ(actual.fills + actual.kernels + actual.operations + actual.allocations, 0);
}

TEST_F(FakeDeviceTest, CopiesOfAnyTypeAndStrides) {
  at::manual_seed(1);
  const at::Tensor cpu = at::randn({3, 4, 5}) * 10;
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kInt, at::kBool}) {
    const at::Tensor expected = cpu.to(dtype).transpose(0, 2);
    const at::Tensor there = cpu.to(device_).to(dtype).transpose(0, 2);
    EXPECT_TRUE(at::equal(there.cpu(), expected)) << dtype;
    EXPECT_TRUE(at::equal(there.contiguous().cpu(), expected)) << dtype;
    EXPECT_TRUE(at::equal(there.to(other_device_).cpu(), expected)) << dtype;
    const at::Tensor rows = at::zeros({2, 5}, there.options());
    EXPECT_TRUE(at::equal(rows.copy_(there.select(2, 1).select(1, 3)).cpu(),
                          expected.select(2, 1).select(1, 3).expand({2, 5})));
  }
  EXPECT_EQ(at::empty({0, 3}, at::TensorOptions(device_)).cpu().numel(), 0);
}

TEST_F(FakeDeviceTest, ViewsShareTheirMemory) {
  const at::Tensor tensor = at::arange(12, kLongs.device(device_));
  const at::Tensor transposed = tensor.view({3, 4}).t();
  transposed.reshape({2, 2, 3}).select(0, 1).fill_(-1);
  tensor.unfold(0, 2, 2).select(0, 0).zero_();
  EXPECT_TRUE(at::equal(tensor.cpu(), at::tensor({0, 0, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1}, at::kLong)));
  EXPECT_TRUE(tensor.view({3, 4}).slice(1, 1, 3).reshape({3, 2, 1}).is_alias_of(tensor));
  EXPECT_TRUE(tensor.view(at::kInt).is_alias_of(tensor));
  EXPECT_THROW(tensor.as_strided({13}, {1}), c10::Error);

  const at::Tensor other = at::empty({0}, tensor.options());
  other.set_(tensor.storage(), 2, {2, 2}, {4, 1});
  EXPECT_TRUE(at::equal(other.cpu(), at::tensor({-1, -1, -1, -1}, at::kLong).view({2, 2})));
  other.set_(tensor);
  other.resize_({2, 8});
  EXPECT_TRUE(at::equal(tensor.cpu().slice(0, 4), at::tensor({4, 5, -1, -1, 8, 9, -1, -1}, at::kLong)));
  EXPECT_TRUE(other.is_alias_of(tensor));
  other.fill_(6);
  EXPECT_EQ(tensor[0].item<int64_t>(), 6);
  at::Tensor sum = at::empty({0}, tensor.options());
  at::add_out(sum, tensor, tensor);
  EXPECT_TRUE(at::equal(sum.cpu(), at::full({12}, 12, at::kLong)));
}

TEST_F(FakeDeviceTest, OperationsGiveWhatTheCpuGives) {
  at::manual_seed(2);
  const at::Tensor scores = at::randn({6, 5});
  const auto compute = [&](at::Device device) {
    const at::Tensor x = scores.to(device), order = std::get<1>(at::sort(x, 1));
    at::Tensor y = at::masked_fill(x, x.ne(x.amax(1, true)), 0);
    y.add_(at::index_select(x, 0, at::arange(6, kLongs.device(device))));
    y.index_put_({at::tensor({1}, at::kLong).to(device)}, at::ones({5}, y.options()));
    y = at::cat({y, at::one_hot(order, 5).sum(1).to(at::kFloat), at::gather(x, 1, order)}, 1);
    return at::where(y.isnan(), at::zeros_like(y), y).cumsum(0).cpu();
  };
  EXPECT_TRUE(at::equal(compute(device_), compute(at::kCPU)));
}

TEST_F(FakeDeviceTest, AScriptedModelGivesWhatItGivesOnTheCpu) {
  at::manual_seed(3);
  torch::jit::Module model("Model");
  for (const char* layer : {"0", "1"}) {
    model.register_parameter(std::string("gate") + layer, at::randn({4, 8}), /*is_buffer=*/false);
    model.register_parameter(std::string("experts") + layer, at::randn({4, 8, 8}), /*is_buffer=*/false);
  }
  model.register_buffer("bias", at::randn({4}));
  model.define(R"(
    def layer(self, x, gate, experts):
        probabilities = torch.softmax(torch.linear(x, gate, self.bias), -1)
        weights, selected = torch.topk(probabilities, 2, -1)
        weights = weights / torch.sum(weights, -1, True)
        each = torch.bmm(experts[selected.reshape(-1)], torch.repeat_interleave(x, 2, 0).unsqueeze(-1))
        return x + torch.sum(each.reshape(-1, 2, 8) * weights.unsqueeze(-1), 1), selected

    def forward(self, x):
        x, first = self.layer(x, self.gate0, self.experts0)
        x, second = self.layer(x, self.gate1, self.experts1)
        return x, first, second
  )");
  const at::Tensor input = at::randn({7, 8});
  const auto expected = model.forward({input}).toTuple();
  model.to(device_);
  for (const at::Tensor& parameter : model.parameters()) EXPECT_EQ(parameter.device(), device_);
  for (const bool inference : {false, true}) {
    const c10::InferenceMode mode(inference);
    for (int run = 0; run < 3; ++run) {  // the executor optimises after the first
      const auto actual = model.forward({input.to(device_)}).toTuple();
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(actual->elements()[i].toTensor().device(), device_);
        EXPECT_TRUE(at::equal(actual->elements()[i].toTensor().cpu(), expected->elements()[i].toTensor())) << i;
      }
    }
  }
  model.to(at::kCPU);
  EXPECT_TRUE(
      at::equal(model.forward({input}).toTuple()->elements()[0].toTensor(), expected->elements()[0].toTensor()));
}

TEST_F(FakeDeviceTest, WhatWasEnqueuedInInferenceModeRunsOnAnyThread) {
  at::Tensor host;
  {
    const c10::InferenceMode mode;
    const at::Tensor tensor = at::empty({2}, kLongs.device(device_));
    tensor.fill_(3);
    host = at::empty({2}, kPinned);
    host.copy_(tensor, /*non_blocking=*/true);
  }
  std::thread(run_until_idle).join();
  EXPECT_EQ(peek(host), 3);
}

TEST_F(FakeDeviceTest, TasksKeepWhatTheyUse) {
  const at::Tensor host = at::empty({1000}, kPinned);
  {
    const at::Tensor tensor = at::empty({1000}, kLongs.device(device_));
    tensor.fill_(8);
    host.copy_(tensor, /*non_blocking=*/true);
  }
  run_until_idle();
  EXPECT_TRUE(at::equal(host, at::full({1000}, 8, at::kLong)));
}

TEST_F(FakeDeviceTest, ATaskThatThrowsIsOver) {
  const c10::Stream stream = guard().getStream(device_);
  bool ran = false;
  enqueue(stream, [] { throw std::runtime_error("broken"); });
  enqueue(stream, [&] { guard().synchronizeStream(stream); });
  enqueue(stream, [&] { ran = true; });
  EXPECT_THROW(run_until_idle(), std::runtime_error);
  EXPECT_FALSE(ran);
  EXPECT_THROW(run_until_idle(), c10::Error) << "a task must not wait";
  run_until_idle();
  EXPECT_TRUE(ran);
}

TEST_F(FakeDeviceTest, ACapturedGraphRunsWithEachReplay) {
  begin_capture();
  const auto replay = end_capture();
  enqueue(guard().getStream(device_), replay);
  run_until_idle();
  EXPECT_EQ(counts().kernels, 1);
}

TEST_F(FakeDeviceTest, ThreadsMayEnqueueAndWaitTogether) {
  constexpr int kThreads = 4, kRounds = 50;
  std::atomic<bool> stops = false;
  std::thread runner([&] {
    while (!stops) run_until_idle();
  });
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const OnStream on_stream(guard().getNewStream(device_));
      const at::Tensor tensor = at::empty({8}, kLongs.device(device_)), host = at::empty({8}, kPinned);
      for (int64_t round = 0; round < kRounds; ++round) {
        tensor.fill_(t * kRounds + round);
        host.copy_(tensor, /*non_blocking=*/true);
        c10::Event event(kType);
        event.record(guard().getStream(device_));
        event.synchronize();
        EXPECT_EQ(peek(host), t * kRounds + round);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  stops = true;
  runner.join();
  EXPECT_EQ(counts().synchronizations, kThreads * kRounds);
}

TEST_F(FakeDeviceTest, WhileAGraphIsCapturedOnlyThoseOutsideAllocateAndWait) {
  const c10::Stream stream = guard().getStream(device_);
  c10::Event event(kType);
  event.record(stream);
  captures(true);  // by another thread
  EXPECT_ANY_THROW(at::empty({1}, kPinned));
  EXPECT_ANY_THROW(event.query());
  EXPECT_ANY_THROW(event.synchronize());
  EXPECT_ANY_THROW(guard().synchronizeDevice(0));
  {
    const plugin::OutsideCaptures outside(device_);
    EXPECT_NO_THROW(at::empty({1}, kPinned));
    EXPECT_NO_THROW(event.synchronize());
  }
  EXPECT_ANY_THROW(at::empty({1}, kPinned));
  captures(false);
  EXPECT_NO_THROW(at::empty({1}, kPinned));
}

}  // namespace
}  // namespace moetap::fake_device
