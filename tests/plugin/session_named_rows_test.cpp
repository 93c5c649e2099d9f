// Eight threads, padding and generation: every row of the dump says whose it is. MOETAP_NAMED_ROWS sets how many rows
// there are at least; benchmarks/RESULTS.md has a run of a million.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>
#include <thread>
#include <vector>

#include "plugin/formats/safetensors.h"
#include "plugin/session.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {
namespace {

constexpr int64_t kThreads = 8, kBatch = 4, kPrompt = 24, kGenerated = 8;
constexpr int64_t kDigit = 36, kDigits = 4;  // a token is a number of four digits of base 36
constexpr int64_t kPlaces = 32;              // of a sample; kPrompt + kGenerated

/// A router whose experts spell the token: slot k chooses expert 36 k + digit k.
torch::jit::Module spelling_model() {
  torch::jit::Module model("Model");
  model.register_parameter("letters", at::eye(kDigits * kDigit), /*is_buffer=*/false);
  model.register_parameter("gate", at::eye(kDigits * kDigit), /*is_buffer=*/false);
  model.register_parameter("experts", at::ones({kDigits * kDigit, kDigits * kDigit, 1}), /*is_buffer=*/false);
  model.define(R"(
    def forward(self, input_ids, attention_mask):
        ids = input_ids.reshape(-1)
        digits = torch.stack([ids % 36, ids.div(36, rounding_mode="floor") % 36 + 36,
                              ids.div(1296, rounding_mode="floor") % 36 + 72,
                              ids.div(46656, rounding_mode="floor") % 36 + 108], -1)
        order = torch.tensor([8.0, 7.0, 6.0, 5.0]).reshape(1, 4, 1)
        x = torch.sum(torch.embedding(self.letters, digits) * order, 1)
        logits = torch.linear(x, self.gate)
        weights, selected = torch.topk(torch.softmax(logits, -1), 4, -1)
        experts = torch.index_select(self.experts, 0, selected.reshape(-1))
        each = torch.repeat_interleave(x, 4, 0)
        outputs = torch.bmm(each.unsqueeze(1), experts).reshape(-1, 4)
        return torch.sum(outputs * weights, -1).reshape(input_ids.size(0), -1)
  )");
  return model;
}

int64_t token_of(int64_t sample, int64_t place) {
  return sample * kPlaces + place;
}

/// How many tokens of a prompt are none of its padding.
int64_t length_of(int64_t sample) {
  return kPrompt - sample % 7;
}

enum class Labels { kRight, kOfAnotherRow };

/// Runs `batches` batches on each thread, with a mask that pads the odd samples on the left, the even on the right.
void record(const std::string& output_dir, int64_t batches, Labels labels) {
  Config config;
  config.output_dir = output_dir;
  config.dump = Dump::kTopk;
  config.log_per_token = false;
  config.unlabelled = Unlabelled::kNew;
  Session session(config);
  auto model = session.attach(spelling_model());
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      const at::NoGradGuard no_gradients;
      for (int64_t batch = 0; batch < batches; ++batch) {
        std::vector<int64_t> samples;
        for (int64_t row = 0; row < kBatch; ++row) samples.push_back((batch * kThreads + thread) * kBatch + row);
        at::Tensor ids = at::zeros({kBatch, kPrompt}, at::kLong), mask = at::zeros({kBatch, kPrompt}, at::kLong);
        for (int64_t row = 0; row < kBatch; ++row) {
          const int64_t sample = samples[static_cast<size_t>(row)], length = length_of(sample);
          const int64_t begin = sample % 2 == 1 ? kPrompt - length : 0;
          ids[row].narrow(0, begin, length).copy_(token_of(sample, 0) + at::arange(begin, begin + length));
          mask[row].narrow(0, begin, length).fill_(1);
        }
        session.label({samples, /*generation=*/false});
        model.forward({ids, mask});
        if (labels == Labels::kOfAnotherRow && thread == 3) std::swap(samples[0], samples[1]);
        session.label({samples, /*generation=*/true});
        for (int64_t step = 0; step < kGenerated; ++step) {
          at::Tensor next = at::empty({kBatch, 1}, at::kLong);
          for (int64_t row = 0; row < kBatch; ++row) {
            const int64_t sample = (batch * kThreads + thread) * kBatch + row;
            next[row][0] = token_of(sample, kPrompt + step);
          }
          model.forward({next, at::ones({kBatch, 1}, at::kLong)});
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  session.close();
}

struct Checked {
  int64_t rows = 0, mismatched = 0;
  std::set<int64_t> tokens;
};

Checked check(const std::string& output_dir) {
  Checked checked;
  for (const auto& entry : std::filesystem::directory_iterator(output_dir + "/moetap/dump/rank0")) {
    const auto columns = read_safetensors(entry.path().string()).tensors;
    const at::Tensor sample = columns.at("sample"), position = columns.at("position").to(at::kLong);
    const at::Tensor phase = columns.at("phase").to(at::kLong), token = columns.at("token_id").to(at::kLong);
    at::Tensor selected;
    for (const auto& [name, column] : columns) {
      if (name.ends_with(".selected")) selected = column.to(at::kLong);
    }
    const at::Tensor base = at::tensor({int64_t{1}, kDigit, kDigit * kDigit, kDigit * kDigit * kDigit}, at::kLong);
    const at::Tensor spelled = ((selected - at::arange(kDigits) * kDigit) * base).sum(-1);
    const at::Tensor place = spelled.remainder(kPlaces);
    // The column of a generated token is 0: the forward has one.
    const at::Tensor column = at::where(phase.eq(0), place, at::zeros_like(place));
    const at::Tensor right = spelled.eq(token) & spelled.div(kPlaces, "floor").eq(sample) & column.eq(position) &
                             place.ge(kPrompt).eq(phase.eq(1));
    checked.rows += sample.size(0);
    checked.mismatched += sample.size(0) - right.sum().item<int64_t>();
    const at::Tensor each = spelled.contiguous();
    checked.tokens.insert(each.const_data_ptr<int64_t>(), each.const_data_ptr<int64_t>() + each.numel());
  }
  return checked;
}

int64_t batches_for_rows() {
  const char* wanted = std::getenv("MOETAP_NAMED_ROWS");
  const int64_t rows = wanted == nullptr ? 20000 : std::atoll(wanted);
  return rows / (kThreads * kBatch * (kPrompt - 3 + kGenerated)) + 1;
}

TEST(SessionNamedRows, EveryRowOfEightThreadsIsThatOfItsToken) {
  at::set_num_threads(1);
  const TemporaryFolder folder;
  const int64_t batches = batches_for_rows();
  ASSERT_LT(batches * kThreads * kBatch * kPlaces, kDigit * kDigit * kDigit * kDigit) << "tokens have four digits";
  record(folder.file("run"), batches, Labels::kRight);
  const Checked checked = check(folder.file("run"));
  int64_t expected = 0;
  for (int64_t sample = 0; sample < batches * kThreads * kBatch; ++sample) expected += length_of(sample) + kGenerated;
  EXPECT_EQ(checked.rows, expected);
  EXPECT_EQ(static_cast<int64_t>(checked.tokens.size()), expected);
  EXPECT_EQ(checked.mismatched, 0);
  std::printf("%lld rows, %lld mismatched\n", static_cast<long long>(checked.rows),
              static_cast<long long>(checked.mismatched));
}

TEST(SessionNamedRows, LabelsOfAnotherRowAreSeen) {
  at::set_num_threads(1);
  const TemporaryFolder folder;
  record(folder.file("run"), 2, Labels::kOfAnotherRow);
  // Two rows of each step of the one thread that labels wrong.
  EXPECT_EQ(check(folder.file("run")).mismatched, 2 * 2 * kGenerated);
}

}  // namespace
}  // namespace moetap::plugin
