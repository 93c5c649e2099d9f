// Sessions that record attention of scripted transformers, from attach to the files.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>

#include "plugin/session.h"
#include "tests/plugin/support/error_of.h"
#include "tests/plugin/support/run_contents.h"
#include "tests/plugin/support/scripted_attention.h"
#include "tests/plugin/support/scripted_moe.h"

namespace moetap::plugin {
namespace {

using nlohmann::json;
using Batches = std::vector<std::vector<int64_t>>;

constexpr int64_t kLength = 7;
constexpr int64_t kLengths[] = {7, 5, 3, 7, 1, 6};  // of the samples, without padding
const Batches kOneByOne = {{0}, {1}, {2}, {3}, {4}, {5}};

at::Tensor ids_of_sample(int64_t sample) {
  at::manual_seed(static_cast<uint64_t>(100 + sample));
  return at::randint(kScriptedVocabulary, {kLengths[sample]}, at::kLong);
}

enum class PadOn { kRight, kLeft };

/// Ids and mask [samples, kLength].
std::vector<c10::IValue> batch_of(const std::vector<int64_t>& samples, PadOn pad = PadOn::kRight) {
  const auto size = static_cast<int64_t>(samples.size());
  const at::Tensor ids = at::zeros({size, kLength}, at::kLong), mask = at::zeros({size, kLength}, at::kLong);
  for (int64_t row = 0; row < size; ++row) {
    const at::Tensor own = ids_of_sample(samples[static_cast<size_t>(row)]);
    const int64_t begin = pad == PadOn::kLeft ? kLength - own.numel() : 0;
    ids[row].narrow(0, begin, own.numel()).copy_(own);
    mask[row].narrow(0, begin, own.numel()).fill_(1);
  }
  return {ids, mask};
}

/// [2, S, S]: what the first block's attention gives for one sample.
at::Tensor probabilities_of(const torch::jit::Module& model, const at::Tensor& ids) {
  const at::Tensor x = model.attr("embedding").toTensor().index_select(0, ids);
  const auto attention = model.attr("first").toModule().attr("attn").toModule();
  const auto heads = [&](const char* name) {
    return at::linear(x, attention.attr(name).toTensor()).reshape({-1, 2, 4}).transpose(0, 1);
  };
  const at::Tensor scores = at::matmul(heads("query"), heads("key").transpose(1, 2)) * 0.5;
  return scores.masked_fill(at::ones_like(scores, at::kBool).triu(1), -INFINITY).softmax(-1);
}

class SessionAttention : public ::testing::Test {
 protected:
  Config config(Attention attention = Attention::kStats) {
    Config config;
    config.output_dir = folder_.file("run" + std::to_string(runs_++));
    config.attention = attention;
    return config;
  }

  /// Records the batches, labelled with their samples.
  static RunContents run(const Config& config, const Batches& batches, PadOn pad = PadOn::kRight,
                         const torch::jit::Module& model = scripted_transformer()) {
    const at::NoGradGuard no_gradients;
    Session session(config);
    auto twin = session.attach(model);
    for (const auto& samples : batches) {
      session.label({samples, false});
      twin.forward(batch_of(samples, pad));
    }
    session.close();
    EXPECT_EQ(session.write_error().value_or(""), "");
    EXPECT_EQ(session.counters().failed_hooks, 0);
    return read_run(config.output_dir);
  }

  static const json& layer(const RunContents& contents, const std::string& layer) {
    return contents.summary.at("attention").at("language_model").at(layer);
  }

  TemporaryFolder folder_;
  int runs_ = 0;
};

TEST_F(SessionAttention, FullHoldsTheProbabilitiesOfTheModelAndStatsTheSameNumbers) {
  const RunContents full = run(config(Attention::kFull), {{0, 1}, {2, 3, 4}, {5}});
  const RunContents stats = run(config(Attention::kStats), {{0, 1}, {2, 3, 4}, {5}});
  EXPECT_EQ(full.summary, stats.summary);
  EXPECT_EQ(full.log, stats.log);
  EXPECT_FALSE(stats.dump.contains("language_model.attention"));

  const auto& matrices = full.dump.at("language_model.attention");
  EXPECT_EQ(matrices.size(), 2 * std::size(kLengths));
  const auto model = scripted_transformer();
  double distance = 0, first = 0, self = 0, rows = 0;
  for (int64_t sample = 0; sample < 6; ++sample) {
    const std::string name = fmt::format("/{}/0", sample);
    const at::Tensor expected = probabilities_of(model, ids_of_sample(sample)).mean(0);
    EXPECT_TRUE(at::allclose(matrices.at("0" + name), expected, 1e-5, 1e-6)) << sample;
    // The other layer: by LibTorch's kernel, recomputed from queries and keys.
    const at::Tensor second = matrices.at("1" + name);
    ASSERT_EQ(second.size(0), kLengths[sample]);
    EXPECT_TRUE(at::allclose(second.sum(1), at::ones({kLengths[sample]}), 1e-5, 1e-6)) << sample;
    EXPECT_TRUE(at::equal(second, second.tril())) << sample;
    const at::Tensor place = at::arange(kLengths[sample], at::kFloat);
    distance += (second * (place.unsqueeze(1) - place).abs()).sum().item<double>();
    first += second.narrow(1, 0, std::min<int64_t>(4, kLengths[sample])).sum().item<double>();
    self += second.diagonal().sum().item<double>();
    rows += static_cast<double>(kLengths[sample]);
  }
  const json& second = layer(stats, "1");
  EXPECT_EQ(second.at("rows"), 29);
  EXPECT_NEAR(second.at("distance").get<double>(), distance / rows, 1e-5);
  EXPECT_NEAR(second.at("first").get<double>(), first / rows, 1e-5);
  EXPECT_NEAR(second.at("self").get<double>(), self / rows, 1e-5);
  EXPECT_NEAR(second.at("received").get<double>(), 1, 1e-5);
  EXPECT_EQ(second.at("name"), "second.attn");
  EXPECT_EQ(second.at("implementation"), "sdpa");
  EXPECT_EQ(layer(stats, "0").at("implementation"), "eager");
  EXPECT_EQ(layer(stats, "0").at("num_heads"), kScriptedHeads);
  EXPECT_EQ(layer(stats, "0").at("num_key_heads"), kScriptedHeads);
}

TEST_F(SessionAttention, EachRouterGoesWithTheAttentionOfItsBlock) {
  const RunContents contents = run(config(), kOneByOne);
  for (const auto& [id, block] : {std::pair("0", "first"), std::pair("1", "second")}) {
    const json& experts = layer(contents, id).at("experts");
    EXPECT_EQ(experts.at("router"), std::string(block) + ".gate");
    double mass = 0;
    for (const json& gate : experts.at("gate_mass")) mass += gate.get<double>();
    EXPECT_NEAR(mass, 29, 1e-4) << "the weights of a token sum to 1";
  }
  for (const json& hook : contents.manifest.at("hooks")) {
    const std::string name = hook.at("name");
    if (hook.at("kind") == "router") continue;
    EXPECT_EQ(hook.at("routers"), json({name.substr(0, name.find('.')) + ".gate"}));
  }
}

TEST_F(SessionAttention, AnyCutIntoBatchesGivesTheSameBytes) {
  const auto summary_text = [](const Config& config) { return text_in(config.output_dir + "/moetap/summary.json"); };
  for (const Attention attention : {Attention::kStats, Attention::kFull}) {
    Config config = this->config(attention);
    config.dump = Dump::kTopk;
    const RunContents one_by_one = run(config, kOneByOne);
    const std::string text = summary_text(config);
    const std::string numbers = text.substr(text.find("\"components\""));
    for (const Batches& batches :
         {Batches{{0, 1, 2, 3, 4, 5}}, Batches{{5, 2}, {4, 3, 1}, {0}}, Batches{{3, 0, 1}, {2, 5, 4}}}) {
      Config other = this->config(attention);
      other.dump = Dump::kTopk;
      const RunContents cut = run(other, batches);
      const std::string other_text = summary_text(other);
      EXPECT_EQ(other_text.substr(other_text.find("\"components\"")), numbers);
      for (const json& entry : cut.log) {
        const auto& same = *std::find_if(one_by_one.log.begin(), one_by_one.log.end(),
                                         [&](const json& known) { return known.at("doc_id") == entry.at("doc_id"); });
        EXPECT_EQ(entry, same);
      }
      if (attention == Attention::kStats) continue;
      for (const auto& [name, matrix] : one_by_one.dump.at("language_model.attention")) {
        EXPECT_TRUE(at::equal(cut.dump.at("language_model.attention").at(name), matrix)) << name;
      }
    }
  }
}

TEST_F(SessionAttention, TheSideOfThePaddingDoesNotMatter) {
  const RunContents right = run(config(Attention::kFull), {{0, 1, 2}, {3, 4, 5}});
  const RunContents left = run(config(Attention::kFull), {{0, 1, 2}, {3, 4, 5}}, PadOn::kLeft);
  for (const auto& [name, matrix] : right.dump.at("language_model.attention")) {
    EXPECT_TRUE(at::allclose(left.dump.at("language_model.attention").at(name), matrix, 1e-5, 1e-6)) << name;
  }
  for (const char* id : {"0", "1"}) {
    EXPECT_EQ(layer(left, id).at("rows"), 29);
    EXPECT_EQ(layer(left, id).at("empty_rows"), 0);
    for (const char* name : {"entropy", "max_weight", "key_mass", "distance", "diagonal", "far", "first", "last"}) {
      EXPECT_NEAR(layer(left, id).at(name).get<double>(), layer(right, id).at(name).get<double>(), 1e-6) << name;
    }
    for (size_t region = 0; region < 5; ++region) {
      EXPECT_NEAR(layer(left, id).at("region_mass").at(region).get<double>(),
                  layer(right, id).at("region_mass").at(region).get<double>(), 1e-6);
    }
  }
}

TEST_F(SessionAttention, TheDumpHasTheValuesOfEachToken) {
  Config config = this->config();
  config.dump = Dump::kTopk;
  const RunContents contents = run(config, {{0, 1, 2}, {3, 4, 5}}, PadOn::kLeft);
  const auto& columns = contents.dump.at("language_model");
  const json names =
      json::parse(read_safetensors(config.output_dir + "/moetap/dump/rank0/language_model-000000.safetensors")
                      .metadata.at("attention_columns"));
  EXPECT_EQ(names.at("0"), names.at("1"));
  const auto column = [&](const std::string& id, const std::string& name) {
    const auto place = std::find(names.at(id).begin(), names.at(id).end(), name) - names.at(id).begin();
    return columns.at(id + ".attention_stats").select(1, place);
  };
  ASSERT_EQ(columns.at("0.attention_stats").sizes(), (std::vector<int64_t>{29, 17}));
  for (const char* id : {"0", "1"}) {
    for (const char* name : {"entropy", "distance", "self", "received"}) {
      EXPECT_NEAR(column(id, name).mean().item<double>(), layer(contents, id).at(name).get<double>(), 1e-5) << name;
    }
  }
  // Rows of a sample are its own: the entropy of its heads.
  const auto model = scripted_transformer();
  for (const int64_t sample : {1, 4, 5}) {
    const at::Tensor own = columns.at("sample").eq(sample).nonzero().squeeze(1);
    const at::Tensor p = probabilities_of(model, ids_of_sample(sample));
    const at::Tensor entropy = -(p * (p + 1e-30).log()).sum(-1).mean(0);
    EXPECT_TRUE(at::allclose(column("0", "entropy").index_select(0, own), entropy, 1e-4, 1e-5)) << sample;
  }
}

TEST_F(SessionAttention, GenerationWithACacheAttendsAsOneForward) {
  const at::NoGradGuard no_gradients;
  const torch::jit::Module model = scripted_transformer(R"(
    def forward(self, input_ids, attention_mask, past):
        x = torch.embedding(self.embedding, input_ids)
        return self.first.forward(x, attention_mask, past), torch.cat([past, x], 1)
  )");
  const at::Tensor ids = at::arange(12, at::kLong).reshape({2, 6}), mask = at::ones({2, 6}, at::kLong);
  mask[1][0] = 0;  // padding on the left
  const auto record = [&](const std::vector<int64_t>& ends) {
    Config config = this->config(Attention::kFull);
    Session session(config);
    auto twin = session.attach(model);
    at::Tensor past = at::zeros({2, 0, 8});
    int64_t begin = 0;
    for (const int64_t end : ends) {
      session.label({{0, 1}, begin > 0});
      past = twin.forward({ids.narrow(1, begin, end - begin), mask.narrow(1, 0, end), past})
                 .toTuple()
                 ->elements()[1]
                 .toTensor();
      begin = end;
    }
    session.close();
    EXPECT_EQ(session.counters().failed_hooks, 0);
    return read_run(config.output_dir);
  };
  const RunContents whole = record({6}), steps = record({4, 5, 6});
  const auto& all = whole.dump.at("language_model.attention");
  const auto& parts = steps.dump.at("language_model.attention");
  EXPECT_EQ(all.size(), 2u);
  EXPECT_EQ(parts.size(), 6u);
  for (const auto& [sample, first] : {std::pair("0", 0), std::pair("1", 1)}) {
    const at::Tensor matrix = all.at(std::string("0/") + sample + "/0");
    ASSERT_EQ(matrix.size(0), 6 - first);
    const int64_t prompt = 4 - first;
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>(0, prompt), std::pair<int64_t, int64_t>(prompt, prompt + 1),
          std::pair<int64_t, int64_t>(prompt + 1, prompt + 2)}) {
      const std::string name = std::string("0/") + sample + "/" + std::to_string(begin);
      ASSERT_TRUE(parts.contains(name)) << name;
      EXPECT_TRUE(at::allclose(parts.at(name), matrix.narrow(0, begin, end - begin).narrow(1, 0, end), 1e-5, 1e-6))
          << name;
    }
  }
  EXPECT_EQ(layer(steps, "0").at("rows"), 11);
  for (const char* name : {"entropy", "max_weight", "key_mass", "distance", "self", "first"}) {
    EXPECT_NEAR(layer(steps, "0").at(name).get<double>(), layer(whole, "0").at(name).get<double>(), 1e-6) << name;
  }
  const json& phases = steps.summary.at("phases");
  EXPECT_EQ(phases.at("prompt").at("attention").at("language_model").at("0").at("rows"), 7);
  EXPECT_EQ(phases.at("generation").at("attention").at("language_model").at("0").at("rows"), 4);
  EXPECT_EQ(steps.log.size(), 2u) << "an entry holds all forwards of its sample";
  for (const size_t sample : {0, 1}) {
    EXPECT_NEAR(steps.log.at(sample)
                    .at("logs_metrics_moe")
                    .at("language_model")
                    .at("0")
                    .at("attention")
                    .at("distance")
                    .get<double>(),
                whole.log.at(sample)
                    .at("logs_metrics_moe")
                    .at("language_model")
                    .at("0")
                    .at("attention")
                    .at("distance")
                    .get<double>(),
                1e-6);
  }
}

TEST_F(SessionAttention, TwoMethodsOfAModelAddToTheSameLayer) {
  const at::NoGradGuard no_gradients;
  const torch::jit::Module model = scripted_transformer(R"(
    def forward(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids)
        return self.first.forward(x, attention_mask, torch.slice(x, 1, 0, 0))

    def score(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids)
        x = self.first.forward(x, attention_mask, torch.slice(x, 1, 0, 0))
        return self.second.forward(x, attention_mask, torch.slice(x, 1, 0, 0))
  )");
  const Config config = this->config(Attention::kFull);
  Session session(config);
  auto twin = session.attach(model);
  twin.forward(batch_of({0, 1}));
  twin.get_method("score")(batch_of({2}));
  session.close();
  const RunContents contents = read_run(config.output_dir);
  EXPECT_EQ(layer(contents, "0").at("name"), "first.attn");
  EXPECT_EQ(layer(contents, "0").at("rows"), 15);
  EXPECT_EQ(layer(contents, "1").at("rows"), 3);
  const auto& matrices = contents.dump.at("language_model.attention");
  EXPECT_EQ(matrices.size(), 4u);
  const at::Tensor expected = probabilities_of(model, ids_of_sample(2)).mean(0);
  EXPECT_TRUE(at::allclose(matrices.at("0/2/0"), expected, 1e-5, 1e-6));
}

TEST_F(SessionAttention, EveryTurnOfALoopIsACall) {
  const torch::jit::Module model = scripted_transformer(R"(
    def forward(self, input_ids, attention_mask):
        x = torch.embedding(self.embedding, input_ids)
        for turn in range(input_ids.size(0) + 1):
            x = self.first.forward(x, attention_mask, torch.slice(x, 1, 0, 0))
        return x
  )");
  const RunContents contents = run(config(Attention::kFull), {{0, 1}}, PadOn::kRight, model);
  EXPECT_EQ(layer(contents, "0").at("rows"), 3 * 12);
  EXPECT_EQ(layer(contents, "0").at("experts").at("router"), "first.gate");
  const auto& matrices = contents.dump.at("language_model.attention");
  ASSERT_EQ(matrices.size(), 6u);
  const at::Tensor expected = probabilities_of(model, ids_of_sample(1)).mean(0);
  EXPECT_TRUE(at::allclose(matrices.at("0/1/0"), expected, 1e-5, 1e-6));
  EXPECT_FALSE(at::allclose(matrices.at("0/1/0/1"), expected, 1e-5, 1e-6));
  EXPECT_FALSE(at::equal(matrices.at("0/1/0/1"), matrices.at("0/1/0/2")));
}

TEST_F(SessionAttention, WhatIsTooLargeStopsAttentionAndNothingElse) {
  const at::NoGradGuard no_gradients;
  Config config = this->config(Attention::kFull);
  config.attention_limit_bytes = 2 * kLength * kLength * 4 - 1;
  testing::internal::CaptureStderr();
  {
    Session session(config);
    auto twin = session.attach(scripted_transformer());
    for (const int64_t sample : {0, 1}) twin.forward(batch_of({sample}));
    session.close();
    EXPECT_EQ(session.counters().failed_hooks, 2);
  }
  const std::string said = testing::internal::GetCapturedStderr();
  for (const char* block : {"first", "second"}) {
    EXPECT_NE(
        said.find(
            "moetap: hook \"" + std::string(block) +
            ".attn\" failed and records no more: attention full keeps 392 bytes a sample: 2 layers, up to 7 queries "
            "× 7 keys; attention_limit_bytes is 391: raise it, or set attention to stats\n"),
        std::string::npos)
        << said;
  }
  const RunContents contents = read_run(config.output_dir);
  EXPECT_EQ(layer(contents, "0").at("rows"), 0);
  EXPECT_EQ(contents.summary.at("components").at("language_model").at("0").at("tokens"), 12);

  config = this->config(Attention::kFull);
  config.attention_limit_bytes = 1;
  config.strict = true;
  testing::internal::CaptureStderr();
  {
    Session session(config);
    auto twin = session.attach(scripted_transformer());
    EXPECT_THROW(twin.forward(batch_of({0})), std::exception);
  }
  testing::internal::GetCapturedStderr();
}

TEST_F(SessionAttention, OnlyWhatASessionAsksForIsLookedFor) {
  const at::NoGradGuard no_gradients;
  const auto quiet = [&](Attention attention, const torch::jit::Module& model) {
    const Config config = this->config(attention);
    Session session(config);
    auto twin = session.attach(model);
    twin.forward(batch_of({0, 1}));
    session.close();
    return read_run(config.output_dir);
  };
  testing::internal::CaptureStderr();
  const RunContents off = quiet(Attention::kOff, scripted_transformer());
  EXPECT_EQ(off.manifest.at("hooks").size(), 2u);
  EXPECT_EQ(off.summary.at("attention"), json::object());

  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");

  testing::internal::CaptureStderr();
  EXPECT_EQ(quiet(Attention::kStats, scripted_moe()).summary.at("attention"), json::object());
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "moetap: no attention was found in a model: only its routers are recorded\n");

  // Instrumented with attention, it may be recorded without.
  testing::internal::CaptureStderr();
  std::stringstream with, without;
  {
    Session session(config());
    session.attach(scripted_transformer()).save(with);
    Session other(config(Attention::kOff));
    other.attach(scripted_transformer()).save(without);
  }
  testing::internal::GetCapturedStderr();
  testing::internal::CaptureStderr();
  const RunContents loaded = quiet(Attention::kOff, torch::jit::load(with));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(loaded.manifest.at("hooks").size(), 4u);
  EXPECT_EQ(loaded.summary, off.summary);
  EXPECT_EQ(loaded.log, off.log);

  const torch::jit::Module plain = torch::jit::load(without);
  EXPECT_EQ(error_of<std::invalid_argument>([&] {
              Session session(config());
              session.attach(plain);
            }),
            "the model was instrumented without attention: instrument it with --attention, or set attention to off");
}

TEST_F(SessionAttention, SampledRowsAreTheSameInAnyCut) {
  Config config = this->config();
  config.attention_sample = 2;
  config.seed = 3;
  const RunContents one_by_one = run(config, kOneByOne);
  EXPECT_EQ(layer(one_by_one, "0").at("rows"), 11) << "two of each sample, but for that of one token";
  EXPECT_EQ(layer(one_by_one, "0").at("not_sampled_rows"), 18);
  EXPECT_TRUE(layer(one_by_one, "0").at("standard_error").is_object());
  config.output_dir = folder_.file("cut");
  EXPECT_EQ(run(config, {{5, 4, 3}, {2, 0, 1}}).summary.at("attention"), one_by_one.summary.at("attention"));
  config.output_dir = folder_.file("seed");
  config.seed = 4;
  EXPECT_NE(layer(run(config, kOneByOne), "0").at("distance"), layer(one_by_one, "0").at("distance"));
}

TEST_F(SessionAttention, RegionsMayBeTokens) {
  Config config = this->config();
  config.attention_regions = "tokens:low=0,1,2,3,4,5,6,7;high=8,9,10,11,12,13,14";
  const RunContents contents = run(config, kOneByOne);
  EXPECT_EQ(layer(contents, "0").at("regions"), json({"low", "high", "other"}));
  const auto model = scripted_transformer();
  double low = 0;
  for (int64_t sample = 0; sample < 6; ++sample) {
    const at::Tensor ids = ids_of_sample(sample);
    low += probabilities_of(model, ids).mean(0).index_select(1, ids.lt(8).nonzero().squeeze(1)).sum().item<double>();
  }
  EXPECT_NEAR(layer(contents, "0").at("region_mass").at(0).get<double>(), low / 29, 1e-5);
  for (const json& row : layer(contents, "0").at("flow")) {
    double sum = 0;
    for (const json& to : row) sum += to.get<double>();
    EXPECT_NEAR(sum, 1, 1e-6);
  }
}

}  // namespace
}  // namespace moetap::plugin
