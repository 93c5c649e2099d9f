#include "analysis/routers/host_call.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <new>

#include "tests/analysis/routers/router_calls.h"

namespace {

// Allocations of this thread by operator new, which the tests below count.
thread_local int64_t num_allocations = 0;

void* allocate(size_t size) {
  ++num_allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) {
  return allocate(size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace moetap::analysis {
namespace {

/// A plane over a tensor whose columns are neighbours.
HostPlane plane_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {tensor.const_data_ptr(), tensor.scalar_type(), tensor.stride(0)};
}

HostRouterCall host_call_of(const RouterCall& call, const TokenRows& rows) {
  HostRouterCall host;
  host.num_tokens = call.selected.size(0);
  host.num_experts = call.num_experts;
  host.top_k = call.selected.size(1);
  host.logits = plane_of(call.logits);
  host.probabilities = plane_of(call.probabilities);
  host.scores = plane_of(call.scores);
  host.selected = plane_of(call.selected);
  host.weights = plane_of(call.weights);
  host.sigmoid_scores = call.sigmoid_scores;
  host.num_rows = rows.num_rows;
  host.order = rows.order;
  if (rows.row.defined()) host.row = rows.row.const_data_ptr<int64_t>();
  if (rows.valid.defined()) host.valid = rows.valid.const_data_ptr<bool>();
  return host;
}

HostTokenOutputs host_outputs_of(const TokenOutputs& outputs) {
  return {outputs.selected.mutable_data_ptr<int32_t>(), outputs.weights.mutable_data_ptr<float>(),
          outputs.first_slot.mutable_data_ptr<int32_t>(), outputs.margins.mutable_data_ptr<float>()};
}

/// Bits, so that NaN equals NaN.
bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && at::equal(a.contiguous().view(at::kByte), b.contiguous().view(at::kByte));
}

/// Expects that plain memory gives what tensors do.
void expect_same(const RouterCall& host, const RouterCall& call, const TokenRows& rows) {
  const int64_t num_tokens = call.selected.size(0), num_before = 3;
  const at::Tensor before = at::arange(num_tokens, at::kInt).remainder(num_before + 2) - 1;
  const Observed expected = observe_all_on(Path::kReference, call, rows, {before, num_before});
  Observed actual = observe_all_on(Path::kReference, take(call, {}), {{}, rows.num_rows});
  actual.outputs = {at::full_like(expected.outputs.selected, 77), at::full_like(expected.outputs.weights, 77),
                    at::full_like(expected.outputs.first_slot, 77), at::full_like(expected.outputs.margins, 77)};
  actual.transitions = at::zeros_like(expected.transitions);
  observe_host(host_call_of(host, rows), host_sums(actual.sums), host_outputs_of(actual.outputs),
               {before.const_data_ptr<int32_t>(), num_before, actual.transitions.mutable_data_ptr<int64_t>()});
  EXPECT_TRUE(same_bits(actual.sums.words, expected.sums.words));
  EXPECT_TRUE(same_bits(actual.outputs.selected, expected.outputs.selected));
  EXPECT_TRUE(same_bits(actual.outputs.weights, expected.outputs.weights));
  EXPECT_TRUE(same_bits(actual.outputs.first_slot, expected.outputs.first_slot));
  EXPECT_TRUE(same_bits(actual.outputs.margins, expected.outputs.margins));
  EXPECT_TRUE(same_bits(actual.transitions, expected.transitions));
}

void expect_same(const RouterCall& call, const TokenRows& rows = {}) {
  expect_same(call, call, rows);
}

TEST(HostCallTest, GivesWhatTensorsGive) {
  for (const CallSize size : {CallSize{1, 8, 2}, {7, 33, 5}, {12, 64, 8}, {60, 4, 1}, {700, 130, 3}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      RouterCall call = random_call(size, 11, dtype);
      expect_same(call);
      call.weights = at::Tensor();
      expect_same(call);
      call.sigmoid_scores = true;
      expect_same(call);
      call.scores = at::sigmoid(call.logits);
      call.probabilities = at::softmax(call.logits, 1);
      call.logits = at::Tensor();
      expect_same(call);
    }
  }
}

TEST(HostCallTest, RowsAndMasks) {
  const RouterCall call = random_call({60, 16, 4}, 12);
  for (const int64_t num_rows : {1, 3, 60}) {
    for (const RowOrder order : {RowOrder::kRowByRow, RowOrder::kInterleaved}) {
      expect_same(call, {{}, num_rows, order});
      expect_same(call, {{}, num_rows, order, at::arange(60).remainder(7).gt(1)});
      expect_same(call, {{}, num_rows, order, at::zeros({60}, at::kBool)});
    }
    expect_same(call, {at::arange(60).mul(7).remainder(num_rows + 2) - 1, num_rows});
  }
}

TEST(HostCallTest, NumbersThatAreNoneAndIdsThatAreNone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  RouterCall call = random_call({8, 9, 3}, 13);
  call.selected =
      at::tensor(std::vector<int64_t>{0, 1, 2, -1, 3, 3, -1, -1, -1, 9, 4, -5, 5, 5, 5, 6, 7, 8, 0, 8, 1, 2, 1, 0})
          .view({8, 3});
  call.weights = at::tensor({kNaN,      1.F, 0.F, 2.F,   0.F, 0.5F, 1.F,  1.F, 1.F, 1.F,  -1.F, 1.F,
                             kInfinity, 0.F, 1.F, 1e30F, 1.F, 1.F,  -0.F, 0.F, 0.F, 0.3F, 0.3F, 0.3F})
                     .view({8, 3});
  call.logits.select(0, 2).fill_(-kInfinity);
  call.logits.select(0, 3).select(0, 4).fill_(kNaN);
  call.logits.select(0, 4).select(0, 1).fill_(kInfinity);
  call.logits.select(0, 5).slice(0, 1, 4).fill_(-kInfinity);
  expect_same(call);
}

TEST(HostCallTest, RowsApartAndShortIds) {
  const RouterCall call = random_call({20, 12, 4}, 14);
  RouterCall host = call;
  const auto spread = [](const at::Tensor& tensor) {
    const at::Tensor wide = at::full({tensor.size(0), tensor.size(1) + 5}, 3, tensor.options());
    return wide.slice(1, 0, tensor.size(1)).copy_(tensor);
  };
  host.logits = spread(call.logits);
  host.weights = spread(call.weights);
  host.selected = spread(call.selected.to(at::kInt));
  expect_same(host, call, {{}, 2});
}

TEST(HostCallTest, BatchesMayBeCutAnywhere) {
  constexpr int64_t kTokens = 150;
  for (const int64_t num_experts : {8, 64, 130}) {
    RouterCall call = random_call({kTokens, num_experts, 3}, 16);
    call.selected.select(1, 2).copy_(call.selected.select(1, 0));               // an expert twice
    call.weights.select(0, 5).fill_(40);                                        // beyond what is added unsplit
    call.logits.slice(0, 10, 40).mul_(at::linspace(1, 200, 30).view({30, 1}));  // small entropies, too
    const RouterSums whole = observe_on(Path::kReference, call);
    for (const int64_t size : {1, 3, 8, 63, 100}) {
      RouterSums pieces = empty_router_sums(num_experts, 3, 1);
      for (int64_t begin = 0; begin < kTokens; begin += size) {
        RouterCall piece = call;
        for (at::Tensor* tensor : {&piece.logits, &piece.selected, &piece.weights}) {
          *tensor = tensor->slice(0, begin, begin + size);
        }
        observe_host(host_call_of(piece, {}), host_sums(pieces));
      }
      const int64_t repeats = RouterSumsLayout::counter(kRepeatPairs);  // of neighbours in one call
      pieces.words.narrow(0, repeats, 2).copy_(whole.words.narrow(0, repeats, 2));
      EXPECT_TRUE(same_bits(pieces.words, whole.words)) << num_experts << " " << size;
    }
  }
}

TEST(HostCallTest, AllocatesNothingOnceWarm) {
  const RouterCall call = random_call({5, 64, 8}, 15);
  const TokenRows rows{{}, 5};
  Observed observed = observe_all_on(Path::kReference, call, rows);
  const HostRouterCall host = host_call_of(call, rows);
  const HostSums sums = host_sums(observed.sums);
  observe_host(host, sums, {});
  const int64_t before = num_allocations;
  observe_host(host, sums, {});
  observe_host(host, sums, host_outputs_of(observed.outputs));
  EXPECT_EQ(num_allocations, before);
  ::operator delete(::operator new(1));
  EXPECT_GT(num_allocations, before) << "allocations are counted";
}

}  // namespace
}  // namespace moetap::analysis
