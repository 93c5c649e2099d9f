#pragma once

#include <limits>
#include <string>
#include <vector>

#include "tests/analysis/attention/attention_calls.h"

namespace moetap::analysis {

/// Calls of every kind that the paths tell apart; each path must give the same of them.
inline std::vector<CallOfTest> calls_of_all_shapes() {
  std::vector<CallOfTest> tests;
  for (const int64_t size : {1, 2, 5, 15, 16, 17, 63, 64, 65, 200, 1000}) {
    CallOfTest test = random_call({size > 500 ? 1 : 3, size > 500 ? 2 : 4, 2, size, size, 24});
    test.name = "size " + std::to_string(size);
    tests.push_back(test);
    test.call.causal = true;
    test.name += ", causal";
    tests.push_back(test);
  }
  for (const int64_t key_heads : {1, 2, 6}) {
    CallOfTest test = random_call({2, 6, key_heads, 70, 70, 64});
    test.name = "key heads " + std::to_string(key_heads);
    tests.push_back(test);
  }
  for (const int64_t depth : {1, 3, 64, 128, 129, 300}) {
    CallOfTest test = random_call({1, 2, 2, 40, 90, depth});
    test.name = "depth " + std::to_string(depth);
    test.tokens.self = false;
    tests.push_back(test);
  }
  {
    CallOfTest test = random_call({2, 2, 2, 3, 150, 16});
    test.name = "behind a cache";
    test.tokens.self = true;
    test.tokens.query_position = ints({147, 148, 149, -1, 90, 91}, {2, 3});
    test.tokens.key_position = positions_of({150, 92}, 150, true);
    test.call.mask = test.tokens.key_position.view({2, 1, 1, 150}) <= test.tokens.query_position.view({2, 1, 3, 1});
    test.call.mask = test.call.mask.bitwise_and(test.tokens.key_position.view({2, 1, 1, 150}) >= 0);
    tests.push_back(test);
    test.name = "a cache in another order";
    const at::Tensor order = at::randperm(150, at::kLong);
    test.call.key = test.call.key.index_select(2, order);
    test.call.mask = test.call.mask.index_select(3, order);
    test.tokens.key_position = test.tokens.key_position.index_select(1, order);
    tests.push_back(test);
  }
  for (const int64_t keys : {1, 64, 65, 1000}) {
    CallOfTest test = random_call({2, 12, 2, 1, keys, 32});
    test.name = "one query, " + std::to_string(keys) + " keys";
    test.tokens.self = true;
    test.tokens.query_position = at::full({2, 1}, keys - 1, at::kInt);
    tests.push_back(test);
    test.name += ", bias by head";
    test.call.mask = at::randn({1, 12, 1, keys});
    tests.push_back(test);
    test.name = "one query of two, padding that is attended to, " + std::to_string(keys) + " keys";
    test.tokens.query_position = ints({static_cast<int32_t>(keys / 2), -1}, {2, 1});
    test.tokens.key_position = positions_of({keys / 2 + 1, keys}, keys, true);
    tests.push_back(test);
  }
  for (const bool left : {false, true}) {
    CallOfTest test = random_call({3, 4, 2, 130, 130, 16});
    test.tokens.query_position = test.tokens.key_position = positions_of({130, 77, 1}, 130, left);
    test.name = left ? "left padding that is attended to" : "right padding that is attended to";
    tests.push_back(test);
    const at::Tensor valid = (test.tokens.key_position >= 0).view({3, 1, 1, 130});
    test.name = left ? "left padding" : "right padding";
    test.call.mask = valid;
    tests.push_back(test);
    test.name += ", mask of both sides";
    test.call.mask = valid.bitwise_and(at::ones({130, 130}, at::kBool).tril());
    tests.push_back(test);
    test.name += ", finite";
    test.call.mask = at::zeros(test.call.mask.sizes())
                         .masked_fill(test.call.mask.logical_not(), std::numeric_limits<float>::lowest());
    tests.push_back(test);
    test.name = "padding, causal";
    test.call.mask = valid;
    test.call.causal = true;
    tests.push_back(test);
  }
  {
    CallOfTest test = random_call({2, 4, 4, 100, 100, 16});
    test.name = "bias by head";
    test.call.mask = at::randn({4, 100, 100}).mul_(2);
    tests.push_back(test);
    test.name = "bias by head, half";
    test.call.mask = test.call.mask.to(at::kHalf);
    tests.push_back(test);
    test.name = "holes";
    test.call.mask = at::rand({2, 1, 100, 100}) > 0.5;
    test.call.mask.select(2, 7).fill_(false);
    tests.push_back(test);
    test.name = "holes by head";
    test.call.mask = at::rand({2, 4, 100, 100}) > 0.8;
    test.call.mask.select(2, 7).fill_(false);
    test.call.mask.select(1, 1).select(1, 9).fill_(false);
    test.call.mask.narrow(3, 64, 36).select(1, 0).fill_(false);
    tests.push_back(test);
    test.name = "a row of the lowest number";
    test.call.mask = at::zeros({1, 1, 100, 100});
    test.call.mask.select(2, 10).fill_(std::numeric_limits<float>::lowest());
    tests.push_back(test);
    test.name = "large scores";
    test.call.mask = at::Tensor();
    test.call.scale = 20;
    tests.push_back(test);
  }
  {
    CallOfTest test = random_call({1, 2, 1, 80, 80, 32});
    test.name = "strides";
    test.call.query = at::randn({1, 80, 2, 64}).slice(3, 0, 64, 2).transpose(1, 2);
    test.call.key = at::randn({32, 80, 1, 1}).permute({3, 2, 1, 0});
    tests.push_back(test);
    test.name = "many regions";
    test.tokens.num_regions = 16;
    test.tokens.key_region = at::randint(0, 16, {1, 80}).to(at::kByte);
    test.tokens.query_region = at::randint(0, 16, {1, 80}).to(at::kByte);
    tests.push_back(test);
    test.name = "sampled";
    test.tokens.sampled = at::rand({1, 80}) > 0.7;
    tests.push_back(test);
    test.name = "nothing is a row";
    test.tokens.query_position = at::full({1, 80}, -1, at::kInt);
    tests.push_back(test);
    test.name = "nothing is a key";
    test.tokens.query_position = test.tokens.key_position;
    test.tokens.key_position = at::full({1, 80}, -1, at::kInt);
    tests.push_back(test);
  }
  return tests;
}

}  // namespace moetap::analysis
